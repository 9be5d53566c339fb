"""Boards behind a tracker: used like boards of one's own, shared, and refused."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time

import numpy as np
import pytest

from microddsp.cli.app import main
from microddsp.errors import BoardError, DeviceFaultError, DeviceTimeoutError, ParameterError
from microddsp.micro.boards import find_board
from microddsp.micro.farm import request
from microddsp.micro.session import BoardSession, open_board
from tests.micro.farm.farms import BOARD, BODY, ONES, Farm, Maker, ask, free, nobody_listens, soon

pytestmark = pytest.mark.qemu


def test_a_board_of_a_farm_answers_as_one_of_here(board: BoardSession, probe: Maker) -> None:
    signal = np.random.default_rng(0).standard_normal((1, 80)).astype(np.float32)
    with open_board(BOARD, probe(BODY, helpers='#include "rpc_server.h"\n')) as local:
        np.testing.assert_array_equal(board.run(signal), local.run(signal))
        assert board.time(signal) == local.time(signal)
        assert board.stack_bytes() == local.stack_bytes()


def test_a_fault_names_its_function_and_the_session_goes_on(board: BoardSession) -> None:
    with pytest.raises(DeviceFaultError, match=r"0xf0000000.*probe_process \(probe.c:") as caught:
        board.run(3 * ONES)
    assert caught.value.function == "probe_process"
    assert board.run(ONES)[0, -1] == 8.0


def test_log_lines_arrive(board: BoardSession, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "microddsp.device"):
        board.run(4 * ONES)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [("WARNING", "four")]


def test_a_profile_takes_a_second_board(board: BoardSession, probe: Maker) -> None:
    assert board.profile(ONES)[-1].name.endswith("probe_process")


def test_a_hanging_device_is_a_time_out_and_frees_its_board(farm: Farm, image: bytes) -> None:
    before = free(farm)
    link = ask(farm, image, timeout_s=3.0)
    hang = link.call(link.session.get_function, "process")
    import tvm

    tensors = [tvm.runtime.tensor(2 * ONES, link.device), tvm.runtime.tensor(ONES, link.device)]
    start = time.monotonic()
    with pytest.raises(DeviceTimeoutError, match="for 3 s, it was stopped\n"):
        link.call(hang, *tensors)
    assert time.monotonic() - start < 60.0
    del hang, tensors
    link.close()
    assert soon(lambda: free(farm) == before)


def test_the_status_tells_free_and_busy_boards(
    farm: Farm, board: BoardSession, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["farm", "status", "--tracker", farm.tracker, "--json"])
    assert not ended.value.code
    (told,) = json.loads(capsys.readouterr().out)
    assert told == {"key": BOARD, "boards": 2, "free": 1, "waiting": 0, "busy": 1}


def test_waiting_for_a_board_ends_and_tells_what_the_tracker_knows(
    farm: Farm, board: BoardSession, image: bytes
) -> None:
    other = ask(farm, image)
    try:
        with pytest.raises(BoardError, match="no board 'mps2-an386' became free within 0.5 s") as e:
            ask(farm, image, wait_s=0.5)
        assert "boards 2, free 0, requests waiting" in e.value.hint
    finally:
        other.close()


def test_the_server_refuses_firmware_for_another_board(farm: Farm, image: bytes) -> None:
    with pytest.raises(BoardError, match="for mps2-an385, the farm's mps2-an386 is a mps2-an386"):
        request(farm.tracker, BOARD, image, find_board("mps2-an385"))
    with pytest.raises(BoardError, match="no ELF file"):
        request(farm.tracker, BOARD, b"\x7fELK", find_board(BOARD))


def test_an_unknown_key_names_the_nearest(farm: Farm, probe: Maker, image: bytes) -> None:
    with pytest.raises(BoardError, match="has no board 'mps2-an38'.*\n.*did you mean 'mps2-an386'"):
        request(farm.tracker, "mps2-an38", image, find_board(BOARD), wait_s=0.0)
    with pytest.raises(BoardError, match="has no board 'lab'"):
        open_board(f"rpc://{farm.tracker}/lab", probe(), wait_s=0.0)


@pytest.mark.parametrize(
    "text",
    [
        "rpc://",
        "rpc://127.0.0.1/k",
        "rpc://127.0.0.1:9190",
        "rpc://127.0.0.1:9190/",
        "rpc://127.0.0.1:99999/k",
        "rpc://127.0.0.1:9190/k?bord=x",
        "rpc://127.0.0.1:9190/a/b",
        "rpc://user@127.0.0.1:9190/k",
        "rpc://127.0.0.1:9190/a b",
    ],
)
def test_what_is_no_address_is_refused(text: str, probe: Maker) -> None:
    with pytest.raises(BoardError, match="no address|cannot be a key") as caught:
        open_board(text, probe())
    assert caught.value.hint


def test_a_tracker_that_is_not_there_is_said_at_once(image: bytes) -> None:
    start = time.monotonic()
    with (
        nobody_listens() as gone,
        pytest.raises(BoardError, match="there is no tracker at .*refused"),
    ):
        request(gone, BOARD, image, find_board(BOARD))
    assert time.monotonic() - start < 30.0  # it would wait for a board for 60 s


def test_something_else_at_the_trackers_port_is_no_tracker(image: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as web:
        port = web.getsockname()[1]

        def answer() -> None:
            with web.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(BoardError, match="is no tracker"):
            request(f"127.0.0.1:{port}", BOARD, image, find_board(BOARD))


@pytest.mark.parametrize("wait_s", [-1.0, float("inf"), float("nan")])
def test_a_wait_that_makes_no_sense_is_refused(farm: Farm, image: bytes, wait_s: float) -> None:
    with pytest.raises(ParameterError, match="wait_s must be"):
        ask(farm, image, wait_s=wait_s)


def test_what_repeats_the_question_and_what_is_no_name_are_no_tracker(image: bytes) -> None:
    def repeat(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            while said := connection.recv(100):
                connection.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as echo:
        thread = threading.Thread(target=repeat, args=(echo,))
        thread.start()
        with pytest.raises(BoardError, match="speaks another protocol"):
            request(f"127.0.0.1:{echo.getsockname()[1]}", BOARD, image, find_board(BOARD))
        thread.join()
    with pytest.raises(BoardError, match="there is no tracker at a..b:9190"):
        request("a..b:9190", BOARD, image, find_board(BOARD))


def test_a_client_that_is_killed_frees_its_board(farm: Farm, image: bytes) -> None:
    before = free(farm)
    told, tell = os.pipe()
    client = os.fork()
    if client == 0:
        try:
            link = ask(farm, image)
            os.write(tell, b"open")
            time.sleep(60)
            link.close()
        finally:
            os._exit(1)
    os.close(tell)
    assert os.read(told, 4) == b"open"
    os.close(told)
    assert free(farm) == before - 1
    os.kill(client, signal.SIGKILL)
    os.waitpid(client, 0)
    assert soon(lambda: free(farm) == before)
