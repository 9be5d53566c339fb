"""The main job, shortened: from a real recording to counts from a Cortex-M4F."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, *options: str) -> dict:
    script = ROOT / "examples" / "heartbeat" / "run.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script), "-o", str(folder), *options],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "report.json").read_text())


def check(report: dict, folder: Path) -> None:
    assert report["device_equals_pytorch"]
    for name, most in (("data3.csv", 0.02), ("data2.csv", 0.08)):
        counts = report["recordings"][name]["counts"]
        assert counts["trained, device"]["windows"] == counts["trained, PyTorch"]["windows"]
        assert counts["trained, device"]["error"] <= most
    noisy = report["recordings"]["data2.csv"]
    assert noisy["off_s"] > 15 and noisy["counted_while_off"] == 0
    assert noisy["counted_while_off_without_gate"] > 0
    assert all(output["passed"] for output in report["verification"]["outputs"])
    assert report["memory"]["flash_bytes"] <= 2520 and report["memory"]["ram_bytes"] <= 122
    assert report["timing"]["instructions_per_sample"] <= 55.5
    for name in ("heartbeat.c", "heartbeat.h", "heartbeat.tar", "heartbeat.png", "sensor_off.png"):
        assert (folder / name).stat().st_size > 500


@pytest.mark.qemu
def test_the_heart_beat_counter_runs_on_the_device(tmp_path: Path) -> None:
    check(run(tmp_path, "--quick"), tmp_path)


@pytest.mark.qemu
@pytest.mark.slow
def test_training_halves_the_error_of_the_better_baseline(tmp_path: Path) -> None:
    report = run(tmp_path)
    check(report, tmp_path)
    counts = report["recordings"]["data3.csv"]["counts"]
    baseline = min(counts["constant count"]["mae"], counts["untrained, PyTorch"]["mae"])
    assert counts["trained, device"]["mae"] <= baseline / 2
