"""The C interface's options and archives of several models, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from microddsp.cli.app import main

PIPELINE = """
import torch
from microddsp import dsp


def quiet():
    return torch.nn.Sequential(dsp.Gain(0.5), dsp.Offset(0.0))


def loud():
    return torch.nn.Sequential(dsp.Gain([2.0, 3.0]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("interface")
    (where / "interface_pipeline.py").write_text(PIPELINE)
    np.savez(where / "one.npz", x=np.ones((1, 128), np.float32))
    np.savez(where / "two.npz", x=np.ones((2, 128), np.float32))
    return where


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """The command's exit status, standard output and error output."""
    monkeypatch.chdir(folder)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        said = capfd.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_models_with_setters_are_packed_run_and_made_into_one_firmware(call, folder: Path) -> None:  # type: ignore[no-untyped-def]
    model = "interface_pipeline.py"
    status, out, err = call(
        *("compile", f"{model}:quiet", "--tunable", "0.gain", "--tunable", "1.offset", "--push"),
        *("--target", "host", "--json"),
    )
    assert status == 0, err
    signature = json.loads(out)["signature"]
    assert signature["push"] and [t["name"] for t in signature["tunables"]] == ["gain", "offset"]
    options = ("--channels", "2", "--tunable", "volume=0.gain", "--target", "host")
    status, out, err = call("compile", f"{model}:loud", *options)
    assert status == 0, err
    status, out, err = call("pack", "quiet.tar", "loud.tar", "-o", "both.tar", "--json")
    assert json.loads(out)["models"] == ["quiet", "loud"], err

    run = ("run", "both.tar", "--board", "host", "--json")
    status, out, err = call(*run, "-i", "one.npz")
    assert status == 1 and "several models: loud, quiet" in err
    status, out, err = call(
        *(*run, "-i", "one.npz", "--name", "quiet", "--set", "gain=4", "--set", "offset=0.25")
    )
    assert json.loads(out)["outputs"]["out"]["max"] == 4.25, err
    status, out, err = call(*run, "-i", "two.npz", "--name", "loud", "--set", "volume=1,7")
    assert json.loads(out)["outputs"]["out"]["max"] == 7.0, err
    status, out, err = call(*run, "-i", "one.npz", "--name", "quiet", "--set", "gane=4")
    assert status == 1 and "did you mean 'gain'" in err

    status, out, err = call("micro", "create-project", "fw", "both.tar", "host", "--json")
    assert json.loads(out)["model"] == "loud, quiet", err
    assert {"quiet.c", "loud.c"} <= {path.name for path in (folder / "fw").rglob("*.c")}


def test_wrong_arguments_are_told_at_once(call) -> None:  # type: ignore[no-untyped-def]
    status, _, err = call("run", "one.npz", "-i", "one.npz", "--set", "gain")
    assert status == 2 and "no option" in err
    changed = ("--verify", "m.py:follow", "--set", "gain=2")
    status, _, err = call("run", "one.npz", "-i", "one.npz", *changed)
    assert status == 2 and "--verify compares" in err
    status, _, err = call("run", "one.npz", "-i", "one.npz", "--set", "gain=loud")
    assert status == 2 and "no number" in err
    status, _, err = call("pack", "none.tar", "-o", "x.tar")
    assert status == 2 and "none.tar" in err
