"""Plops in audio, shortened: learned from counts, counted on a Cortex-M4F."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.qemu
def test_the_plop_counter_learns_and_counts_the_same_on_the_device(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples/brewing/run.py", "-o", tmp_path, "--quick"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    counts = report["counts"]
    assert report["device_equals_pytorch"]
    assert counts["trained, device"]["windows"] == counts["trained, PyTorch"]["windows"]
    assert counts["trained, device"]["error"] < 0.15
    assert (
        counts["trained, device"]["error"]
        < 0.4 * counts["one band and a threshold, PyTorch"]["error"]
    )
    assert counts["trained, device"]["error"] < 0.2 * counts["untrained, PyTorch"]["error"]
    assert all(output["passed"] for output in report["verification"]["outputs"])
    assert report["memory"]["ram_bytes"] < 960
    assert report["memory"]["flash_bytes"] < 6800
    assert report["timing"]["instructions_per_sample"] < 135
    assert (tmp_path / "brewing.png").stat().st_size > 500
