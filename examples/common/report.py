"""Options of an example, what it prints, and the report that it leaves in its folder."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

console = Console()


def option_parser(description: str | None, name: str, quick: str) -> argparse.ArgumentParser:
    """-o FOLDER and --quick, which says what it shortens."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("-o", "--output", type=Path, default=Path("build") / name)
    parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def start(folder: Path) -> None:
    """Make the folder and the run repeatable."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the kernels are small: more threads only wait for each other


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table whose first column holds names and the others figures."""
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def show_error_shares(title: str, counts: Mapping[str, Mapping[str, Any]]) -> None:
    """Totals and `error` of `counting.errors`."""
    show_table(
        title,
        ("", "total", "error"),
        (
            (name, f"{row['total']:.0f}", f"{100 * row['error']:.1f} %")
            for name, row in counts.items()
        ),
    )


def show_device(report: Mapping[str, Any], block: int | None = None) -> None:
    """Equality, largest errors, memory and instructions; with a block, more about both."""
    memory, timing = report["memory"], report["timing"]
    console.print(f"device and PyTorch give the same counts: {report['device_equals_pytorch']}")
    for output in report["verification"]["outputs"]:
        console.print(
            f"  output {output['name']}: largest error {output['max_abs_error']:.2g}, relative "
            f"{output['max_rel_error']:.1e} (at most {output['tolerance']:.0e})"
        )
    parts = per_block = ""
    unit = "instructions a sample"
    if block is not None:
        parts = f" (state {memory['state_bytes']}, arena {memory['arena_bytes']})"
        per_block = f"{timing['instructions_median']:.0f} instructions a block of {block}, "
        unit = "a sample"
    console.print(
        f"flash {memory['flash_bytes']} B, RAM {memory['ram_bytes']} B{parts}, stack "
        f"{memory['stack_bytes']} B; {per_block}{timing['instructions_per_sample']:.1f} {unit}"
    )


def show_counts_note(
    window_s: float, constant_error: float, rows: Iterable[Mapping[str, Any]]
) -> None:
    """What an error is, what it would be without listening, and whether the device agrees."""
    console.print(
        f"error: sum of |counted - reference| over windows of {window_s:g} s / sum of the "
        f"reference; a constant count: {100 * constant_error:.1f} %"
    )
    same = all(row["device_equals_pytorch"] for row in rows)
    console.print(f"device and PyTorch give the same counts: {same}")


def write(report: Mapping[str, Any], folder: Path) -> None:
    """`report.json`."""
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
