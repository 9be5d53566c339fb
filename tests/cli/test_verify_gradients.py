"""`microddsp verify-gradients` and `microddsp ops --derivatives`."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

from microddsp.cli.derivatives import DERIVATIVES

ROOT = Path(__file__).resolve().parents[2]
MODELS = """
import torch
from microddsp import dsp


def fine():
    return torch.nn.Sequential(dsp.Gain(2.0), dsp.OnePole(60.0, sample_rate_hz=1000.0))


class Jump(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(0.4999))

    def forward(self, x):
        return x * (torch.round(self.level) + self.level)
"""


def microddsp(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "microddsp", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )


def test_gradients_are_shown_beside_differences(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    done = microddsp(
        tmp_path, "verify-gradients", "models.py:fine", "--epsilon", "1e-4", "--csv", "g.csv"
    )
    assert done.returncode == 0, done.stderr
    assert "0.gain" in done.stdout and "deviation" in done.stdout and "WRONG" not in done.stdout
    with (tmp_path / "g.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["name"] for row in table] == ["0.gain", "1.cutoff.raw"]
    for row in table:
        assert float(row["relative_error"]) < 1e-6


def test_a_jump_within_epsilon_is_found_and_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    done = microddsp(tmp_path, "verify-gradients", "models.py:Jump", "--json")
    assert done.returncode == 1 and "level" in done.stderr and "jump" in done.stderr
    report = json.loads(done.stdout)
    assert report["wrong"] == ["level"] and report["epsilon"] == 1e-3


def test_ops_lists_derivatives(tmp_path: Path) -> None:
    rows = json.loads(microddsp(tmp_path, "ops", "--derivatives", "--json").stdout)
    assert [row["name"] for row in rows] == [line.name for line in DERIVATIVES]
    text = microddsp(tmp_path, "ops", "--derivatives").stdout
    for line in DERIVATIVES:
        assert line.name in text
