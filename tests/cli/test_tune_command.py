"""`microddsp tune`: kernels listed, tuned, shown; the records used by `compile`."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from microddsp.cli.app import INTERRUPTED, main
from microddsp.tuning.database import TRIALS, read_trials

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
    (task,) = json.loads(_said(capsys, "tune", model, "--tasks", "list", "--json"))
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


@pytest.mark.qemu
def test_an_interrupted_session_keeps_its_trials_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.py").write_text(MODEL)
    db = tmp_path / "db"
    line = ["tune", f"{tmp_path}/m.py:follow", "-o", str(db), "--block", "8", "--json"]

    def work() -> None:
        os.setsid()  # as from a terminal, compilers and the emulator are interrupted too
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
        main(line)

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    path = db / TRIALS
    until = time.monotonic() + 600
    while not path.exists() or path.read_bytes().count(b"\n") < 5:
        assert child.is_alive() and time.monotonic() < until
        time.sleep(0.01)
    assert child.pid
    os.killpg(child.pid, signal.SIGINT)
    child.join(300)
    assert child.exitcode == INTERRUPTED == 130
    kept = path.read_bytes()
    before = len(read_trials(db))  # every line is whole
    report = json.loads(_said(capsys, *line, "--trials", str(before + 3)))
    assert (report["new_trials"], report["kernels"][0]["trials"]) == (3, before + 3)
    assert path.read_bytes().startswith(kept)
    digests = [t.digest for t in read_trials(db)]
    assert len(set(digests)) == len(digests)


@pytest.mark.qemu
def test_with_object_code_there_are_more_choices_and_time_limits_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.py").write_text(MODEL)
    db = str(tmp_path / "db")
    line = ["tune", f"{tmp_path}/m.py:follow", "-o", db, "--block", "8", "--json"]
    (task,) = json.loads(_said(capsys, *line, "--emit", "any", "--tasks", "list"))
    assert {"c", "llvm"} < set(task["choices"]["code"])
    said = _said(capsys, *line, "--timeout", "0.001", status=1)
    assert "hangs: not done after 0.001 s" in said
    assert "--timeout" in _said(capsys, *line, "--timeout", "0", status=2)
    options = ("--emit", "any", "--trials", "6", "--timeout", "10")
    (kernel,) = json.loads(_said(capsys, *line, *options))["kernels"]
    assert kernel["trials"] == 6
    assert {t.choices["code"] for t in read_trials(db)} > {"c"}


@pytest.mark.qemu
def test_a_board_of_little_memory_is_tuned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.py").write_text(MODEL)
    model, db = f"{tmp_path}/m.py:follow", str(tmp_path / "db")
    options = ("--board", "microbit", "--metric", "instructions", "--block", "8", "--trials", "3")
    report = json.loads(_said(capsys, "tune", model, "-o", db, *options, "--json"))
    (kernel,) = report["kernels"]
    assert kernel["trials"] == 3 and kernel["gain"] >= 1.0


def test_what_makes_no_sense_is_said_before_torch_is_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.py").write_text(MODEL)
    model = f"{tmp_path}/m.py:follow"
    assert "watts" in _said(capsys, "tune", model, "-o", "db", "--metric", "watts", status=2)
    assert "elf" in _said(capsys, "tune", model, "-o", "db", "--emit", "elf", status=2)
    said = _said(capsys, "tune", "show", str(tmp_path / "no"), status=2)
    assert "there is no folder" in said
    assert "-o says where" in _said(capsys, "tune", model, status=2)
    for wrong, words in (
        (("--tracker", "nowhere"), "HOST:PORT"),
        (("--key", "lab"), "--tracker"),
        (("--board", "rpc://127.0.0.1:1/lab"), "rpc://"),
        (("--max-time", "-1"), "--max-time"),
    ):
        assert words in _said(capsys, "tune", model, "-o", "db", *wrong, status=2)
    assert "no tuning records" in _said(capsys, "tune", "show", str(tmp_path), status=1)
    (tmp_path / "trials.jsonl").write_text('{"cut')
    assert "warning: " in _said(capsys, "tune", "show", str(tmp_path), status=1)
    picture = ("--svg", str(tmp_path / "curve.png"))
    assert ".svg" in _said(capsys, "tune", "show", str(tmp_path), *picture, status=2)
