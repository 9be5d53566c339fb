"""What ours cost when it was last looked at: kept in git, so that nothing grows unseen."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.device.job import Result

PATH = Path(__file__).with_name("baseline.json")
BOARD = "mps2-an386"
FIGURES = ("instructions", "text_bytes", "ram_bytes")
MARGIN = 0.02


def compiler() -> str:
    """What the counts depend on beside our code."""
    command = ["arm-none-eabi-gcc", "-dumpfullversion"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(PATH.read_text())
    return found


def write(results: Iterable[Result]) -> None:
    rows = {r.job: {f: round(getattr(r, f), 3) for f in FIGURES} for r in results}
    text = json.dumps({"compiler": compiler(), "rows": rows}, indent=1, sort_keys=True)
    PATH.write_text(text + "\n")


def grown(results: Iterable[Result], rows: dict[str, dict[str, float]]) -> list[str]:
    """A line for every figure above its baseline by more than the margin, or without one."""
    lines = []
    for result in results:
        known = rows.get(result.job)
        if known is None:
            lines.append(f"{result.job}: not in the baseline")
            continue
        for figure in FIGURES:
            now, before = getattr(result, figure), known[figure]
            if now > before * (1 + MARGIN):
                lines.append(f"{result.job}: {figure} {before:g} -> {now:g}")
    return lines
