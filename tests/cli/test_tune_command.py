"""`microddsp tune`: kernels listed, tuned, shown; the records used by `compile`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from microddsp.cli.app import main

MODEL = """
import torch
from microddsp import dsp

def follow():
    return torch.nn.Sequential(
        dsp.Gain(3.0), dsp.Envelope(attack_s=0.002, release_s=0.05, sample_rate_hz=8000)
    )
"""


def _said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    out, err = capsys.readouterr()
    assert left.value.code in (status, None), err
    return out if status == 0 else err


@pytest.mark.qemu
def test_a_model_is_tuned_shown_and_compiled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.py").write_text(MODEL)
    model, db = f"{tmp_path}/m.py:follow", str(tmp_path / "db")
    (task,) = json.loads(_said(capsys, "tune", model, "-o", db, "--tasks", "list", "--json"))
    assert 8 in task["choices"]["unroll"]
    options = ("--block", "8", "--trials", "4", "--json")
    report = json.loads(_said(capsys, "tune", model, "-o", db, *options))
    (kernel,) = report["kernels"]
    assert kernel["trials"] == report["new_trials"] == 4
    assert kernel["gain"] >= 1.0
    (shown,) = json.loads(
        _said(capsys, "tune", "show", db, "--json", "--svg", str(tmp_path / "curve.svg"))
    )
    assert shown["best"]["value"] == kernel["best"]
    assert "<svg" in (tmp_path / "curve.svg").read_text()


def test_what_makes_no_sense_is_said_before_torch_is_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.py").write_text(MODEL)
    model = f"{tmp_path}/m.py:follow"
    assert "watts" in _said(capsys, "tune", model, "-o", "db", "--metric", "watts", status=2)
    said = _said(capsys, "tune", "show", str(tmp_path / "no"), status=2)
    assert "there is no folder" in said
    assert "--output" in _said(capsys, "tune", model, status=2)
