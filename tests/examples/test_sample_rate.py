"""A sample rate that is learned, shortened: less work on the device, counts as in PyTorch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.qemu
def test_a_learned_sample_rate_costs_less_and_still_counts(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples/sample_rate/run.py", "-o", tmp_path, "--quick"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    full, learned = report["rows"]
    assert full["device_equals_pytorch"] and learned["device_equals_pytorch"]
    assert learned["sample_rate_hz"] <= full["sample_rate_hz"] / 2
    assert learned["instructions_per_s"] < 0.8 * full["instructions_per_s"]
    assert learned["error"] < report["constant_error"] / 2
    way = report["band_limit_hz"]["1"]
    assert way[-1] < way[0] / 1.5
    assert (tmp_path / "sample_rate.png").stat().st_size > 500
