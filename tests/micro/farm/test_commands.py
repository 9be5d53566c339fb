"""Farms from the command line; a real board; a tracker that ends."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.link.line import line_board
from microddsp.cli.app import main
from microddsp.errors import BoardError
from microddsp.micro.farm import parse_tracker, tracker_status
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.session import BoardSession, open_board
from microddsp.signature import OutputStructure
from tests.micro.farm.farms import BOARD, ONES, Farm, Maker, address, ask, nobody_listens, soon
from tests.micro.noisy_line import NoisyLine

pytestmark = pytest.mark.qemu


LINE = (
    line_board(4_000_000)
    + """flash = ["cp", "--remove-destination", "{image}", "IMAGE"]
reset = ["kill", "-USR1", "RELAY"]
"""
)


@pytest.mark.slow
def test_a_real_board_is_flashed_by_its_server(farm: Farm, probe: Maker, tmp_path: Path) -> None:
    """The board is a process behind a pseudo-terminal, which is started anew as by a reset."""
    flash = tmp_path / "flash"
    flash.write_text("#!/bin/sh\nexec cat > /dev/null\n")  # as it comes from the shop
    flash.chmod(0o700)
    line = NoisyLine(flash, rate=0.0, seed=1)
    file = tmp_path / "line.toml"
    file.write_text(LINE.replace("IMAGE", str(flash)).replace("RELAY", str(line.relay.pid)))
    serve = farm.start(
        *("serve", "--tracker", farm.tracker, "--board", str(file), "--port", line.port), until=1
    )
    try:
        with open_board(f"rpc://{farm.tracker}/line?board={file}", probe(target="host")) as session:
            assert session.run(ONES)[0, -1] == 8.0
            assert session.time(ONES).unit == "nanoseconds"
    finally:
        serve.terminate()
        serve.wait(60)
        line.close()


def test_the_command_runs_a_recording_on_a_farm(
    farm: Farm,
    board: BoardSession,
    probe: Maker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With only one free board: what a profile needs is started when the rest is done."""
    made = probe()
    signature = replace(made.signature, structure=OutputStructure(names=("y",)))
    CompiledModel("probe", made.target, signature, made.sources).save(tmp_path / "probe.tar")
    np.savez(tmp_path / "in.npz", x=np.arange(16, dtype=np.float32)[None])
    words = ["run", str(tmp_path / "probe.tar"), "-i", str(tmp_path / "in.npz"), "--json"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--board", address(farm), "--print-time", "--profile"])
    assert not ended.value.code
    told = json.loads(capsys.readouterr().out)
    assert told["outputs"]["y"]["max"] == sum(range(16))
    assert told["time"]["blocks"] == 2
    assert told["profile"][-1]["name"].endswith("probe_process")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["serve", "--tracker", "nowhere"], "no address of a tracker"),
        (["serve", "--tracker", "h:1", "--board", "mps2-an368"], "did you mean"),
        (["serve", "--tracker", "h:1", "--key", "a b"], "cannot be a key"),
        (["serve", "--tracker", "h:1", "--ports", "9-1"], "are no ports"),
        (
            ["serve", "--tracker", "h:1", "--key", "k", "--board", BOARD, "--board", "host"],
            "must be alike",
        ),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_starts(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["farm", *words])
    assert ended.value.code == 2
    assert told in " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().err).split())


def test_listening_beyond_this_computer_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    with nobody_listens() as address, pytest.raises(SystemExit) as ended:
        main(["farm", "serve", "--tracker", address, "--host", "0.0.0.0"])
    assert ended.value.code == 3
    told = capsys.readouterr().err
    assert "warning: whoever reaches 0.0.0.0 can run programs here" in told
    assert "there is no tracker at" in told


def test_a_tracker_that_ends_is_told_to_who_waits_and_sessions_go_on(
    farm: Farm, board: BoardSession, image: bytes
) -> None:
    other = ask(farm, image)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, farm, image)
        tracker = parse_tracker(farm.tracker)
        assert soon(lambda: any(status.waiting for status in tracker_status(tracker)))
        farm.processes[0].kill()
        with pytest.raises(BoardError, match="there is no tracker at .*reset"):
            waiting.result(60)
    assert board.run(ONES)[0, -1] == 8.0
    other.close()
