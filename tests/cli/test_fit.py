"""`microddsp fit`: from two models and a signal to the hidden parameters."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
MODELS = """
import torch
from microddsp import dsp

RATE = 8000.0


def truth():
    return torch.nn.Sequential(dsp.Gain(0.7), dsp.OnePole(600.0, sample_rate_hz=RATE))


def start():
    return torch.nn.Sequential(dsp.Gain(0.2), dsp.OnePole(100.0, sample_rate_hz=RATE))


def fixed():
    return start().requires_grad_(False)
"""


def microddsp(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "microddsp", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("fit")
    (where / "models.py").write_text(MODELS)
    x = np.random.default_rng(0).standard_normal(1500)
    np.savez(where / "x.npz", x=x[None].astype(np.float32))
    return where


TASK = ("fit", "--ground-truth", "models.py:truth", "--learn", "models.py:start")


def test_fit_finds_the_hidden_parameters_and_writes_what_happened(folder: Path) -> None:
    written = ("--csv", "log.csv", "--plot", "log.png", "--plot-response", "r.png")
    options = ("--input", "x.npz", "--loss", "l1", "--lr", "0.1", "--json")
    done = microddsp(folder, *TASK, *options, *written)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["steps"] == 300 and not done.stderr
    for row in result["parameters"]:
        assert row["learned"] == pytest.approx(row["target"], rel=0.01)
    with (folder / "log.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 300
    assert float(table[-1]["1.cutoff_hz"]) == result["parameters"][1]["learned"]
    assert (folder / "log.png").stat().st_size > 1000
    assert (folder / "r.png").stat().st_size > 1000


def test_fit_shows_a_table_and_goes_on_from_a_checkpoint(folder: Path) -> None:
    keep = ("--checkpoint", "c.pt", "--resume", "--input", "noise", "--samples", "300")
    first = microddsp(folder, *TASK, *keep, "--steps", "3")
    assert first.returncode == 0, first.stderr
    assert "1.cutoff_hz" in first.stdout and "after 3 steps" in first.stdout
    again = microddsp(folder, *TASK, *keep, "--steps", "5", "--json")
    assert json.loads(again.stdout)["steps"] == 5


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--input", "nose"), 2, "write 'noise'"),
        (("--input", "noise", "--loss", "l3"), 2, "known: l1"),
        (("--input", "noise", "--csv", "no/log.csv"), 2, "no folder"),
        (("--input", "noise", "--plot", "log.pgn"), 2, "written as .pgn"),
        (("--input", "noise", "--resume"), 2, "--checkpoint"),
        (("--input", "x.npz", "--channels", "2"), 1, "not 2 channels"),
        (("--input", "noise", "--learn", "models.py:fixed"), 1, "nothing to learn"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_told(folder: Path, arguments: tuple, status: int, message: str) -> None:
    done = microddsp(folder, *TASK, *arguments)
    assert done.returncode == status and "Traceback" not in done.stderr
    assert message in " ".join(done.stderr.replace("│", " ").split())
