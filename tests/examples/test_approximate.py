"""Cheaper features, shortened: trained towards log-mel frames, the same on the device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.qemu
def test_approximations_come_nearer_and_the_short_transform_is_cheaper(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples/approximate/run.py", "-o", tmp_path, "--quick"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    reference, *cheaper = report["rows"]
    assert reference["rms_db"] < 0.01
    for row in cheaper:
        assert row["rms_db"] < min(row["rms_db_before"], report["spread_db"])
        assert all(output["passed"] for output in row["verification"]["outputs"])
        assert row["memory"]["flash_bytes"] < reference["memory"]["flash_bytes"]
    short = cheaper[0]
    assert short["instructions_per_sample"] < 0.6 * reference["instructions_per_sample"]
    product = cheaper[2]
    assert product["name"] == "matrix product, 8 bits"
    assert product["instructions_per_sample"] < reference["instructions_per_sample"]
    assert product["memory"]["flash_bytes"] < 0.6 * reference["memory"]["flash_bytes"]
    assert (tmp_path / "approximate.png").stat().st_size > 500
