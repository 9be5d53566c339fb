"""Filters that are gated away, shortened: less C, counts as in PyTorch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.qemu
def test_fewer_filters_cost_less_and_still_count(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples/filter_count/run.py", "-o", tmp_path, "--quick"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    full, pruned = report["rows"]
    assert full["device_equals_pytorch"] and pruned["device_equals_pytorch"]
    assert pruned["filters"] < full["filters"]
    assert pruned["instructions_per_sample"] < full["instructions_per_sample"]
    assert pruned["memory"]["flash_bytes"] < full["memory"]["flash_bytes"]
    assert pruned["error"] < report["constant_error"] / 2
    assert (tmp_path / "filter_count.png").stat().st_size > 500
