"""Servers of a farm that end, stand still, or are called by who says nothing: no job is lost."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from microddsp import dsp
from microddsp.errors import BoardError, ServerLostError
from microddsp.micro.aot.kernel import Kernel, Parameter
from microddsp.micro.boards import find_board
from microddsp.micro.farm import parse_tracker, request, request_and_run, tracker_status
from microddsp.micro.farm.tracker import acquire
from microddsp.micro.rpc.link import Link
from microddsp.micro.session import open_board
from microddsp.micro.targets import find_target
from microddsp.tuning.measure import Values
from microddsp.tuning.objects import build_all
from microddsp.tuning.remote import Boards
from microddsp.tuning.report import Tuning
from microddsp.tuning.session import tune_tasks
from microddsp.tuning.task import Candidate, tuning_tasks
from tests.micro.farm.farms import BOARD, ONES, Farm, Maker, Running, soon

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="module")
def lab(farm: Farm) -> subprocess.Popen[str]:
    """Two more boards, under a key that is no board's name."""
    words = ("serve", "--tracker", farm.tracker, "--board", BOARD, "--count", "2", "--key", "lab")
    return farm.start(*words, until=2)


def server_of(lab: subprocess.Popen[str], link: Link) -> psutil.Process:
    """The server that has the link's board: it listens where the bridge is connected to."""
    bridge = psutil.Process(link.process_ids()[0])
    (port,) = {c.raddr.port for c in bridge.net_connections("tcp")}
    for server in psutil.Process(lab.pid).children():
        if port in {c.laddr.port for c in server.net_connections("tcp")}:
            return server
    raise AssertionError(port)


def busy(lab: subprocess.Popen[str]) -> list[psutil.Process]:
    """Servers that somebody uses."""
    servers = psutil.Process(lab.pid).children()
    return [server for server in servers if server.children(recursive=True)]


def kill_one(servers: list[psutil.Process]) -> bool:
    for server in servers[:1]:
        server.kill()
    return bool(servers)


def in_lab(farm: Farm) -> int:
    return sum(s.free for s in tracker_status(parse_tracker(farm.tracker)) if s.key == "lab")


def test_a_server_says_what_board_it_has(
    farm: Farm, lab: subprocess.Popen[str], probe: Maker
) -> None:
    with open_board(f"rpc://{farm.tracker}/lab", probe()) as session:
        assert session.board.name == BOARD
        assert session.run(ONES)[0, -1] == 8.0


def test_no_job_is_lost_with_a_server(
    farm: Farm, lab: subprocess.Popen[str], image: bytes, running: Running
) -> None:
    attempts: list[int] = []
    killed = threading.Event()

    def job(number: int) -> tuple[int, bool]:
        def work(link: Link) -> tuple[int, bool]:
            attempts.append(number)
            if number == 3 and not killed.is_set():
                killed.set()
                victim = server_of(lab, link)
                below = [p.pid for p in victim.children(recursive=True)]
                victim.kill()
                assert soon(lambda: not any(map(running, below)))
            return number, int(link.call(lambda: link.device.available_global_memory)) > 0

        return request_and_run(farm.tracker, "lab", image, find_board(BOARD), work)

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(job, range(12)))
    assert answers == [(number, True) for number in range(12)]
    assert attempts.count(3) == 2  # the job that lost its server started anew


def test_a_lost_server_is_an_error_of_its_own_and_it_comes_back(
    farm: Farm, lab: subprocess.Popen[str], image: bytes, running: Running
) -> None:
    assert soon(lambda: in_lab(farm) == 2)
    link = request(farm.tracker, "lab", image, find_board(BOARD), timeout_s=100.0)
    server = server_of(lab, link)
    below = [p.pid for p in server.children(recursive=True)]
    assert len(below) == 3  # session, bridge, emulator
    start = time.monotonic()
    server.kill()
    assert soon(lambda: not any(map(running, below)))
    for _ in range(2):
        with pytest.raises(ServerLostError, match="server is gone.*\n.*open the board again"):
            link.call(link.session.get_function, "process")
    link.close()
    assert time.monotonic() - start < 60.0
    assert soon(lambda: in_lab(farm) == 2)  # started anew


def test_a_server_that_stands_still_is_lost_in_time(
    farm: Farm, lab: subprocess.Popen[str], image: bytes
) -> None:
    link = request(farm.tracker, "lab", image, find_board(BOARD), timeout_s=2.0)
    stopped = server_of(lab, link).children()[0]
    stopped.suspend()
    start = time.monotonic()
    with pytest.raises(ServerLostError, match="has not answered for 7 s"):
        link.call(link.session.get_function, "process")
    assert 6.5 < time.monotonic() - start < 60.0
    link.close()
    stopped.resume()
    assert soon(lambda: in_lab(farm) == 2)


def test_candidates_of_a_lost_server_are_measured_on_another(
    farm: Farm, lab: subprocess.Popen[str], tmp_path: Path
) -> None:
    parameters = (Parameter("x", "float32", 8, False), Parameter("y", "float32", 8, True))

    def doubled(more: str = "", times: int = 1) -> Candidate:
        loop = f"    for (int32_t i = 0; i < {8 * times}; ++i) {{\n"
        body = f"{loop}        y[i % 8] = x[i % 8] * 2.0f;\n    }}\n{more}"
        return Candidate((Kernel("twice", parameters, (), body, (), (), "restrict", None),))

    candidates = [doubled(times=n) for n in range(1, 9)]
    candidates[3] = doubled("    y[2] += 1.0f;\n")
    target = find_target("cortex-m4f")
    built = build_all([(c, tmp_path / str(i)) for i, c in enumerate(candidates)], target)
    signal = np.arange(8, dtype="float32")
    values = Values.of(candidates[0], [(signal, np.zeros(8)), (-signal, np.zeros(8))])
    told: list[str] = []
    boards = Boards(
        find_board(BOARD),
        values,
        address=f"rpc://{farm.tracker}/lab?board={BOARD}",
        boards_at_once=2,
        timeout_s=20.0,
        say=told.append,
    )
    assert soon(lambda: in_lab(farm) == 2)
    with ThreadPoolExecutor(1) as pool:
        measuring = pool.submit(boards.measure, list(zip(candidates, built, strict=True)))
        assert soon(lambda: measuring.done() or kill_one(busy(lab)))
        outcomes = measuring.result(300)
    assert told  # a server was lost, and what it had was measured elsewhere
    assert [bool(o.reason) for o in outcomes] == [i == 3 for i in range(8)]
    assert outcomes[3].reason.startswith("wrong: y is off by")
    counts = [o.figures["instructions"] for o in outcomes if not o.reason]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


@pytest.mark.slow
def test_a_session_of_tuning_tells_of_a_lost_server_and_goes_on(
    farm: Farm, lab: subprocess.Popen[str], tmp_path: Path
) -> None:
    envelope = dsp.Envelope(attack_s=0.002, release_s=0.05, sample_rate_hz=8000)
    (task,) = tuning_tasks(torch.nn.Sequential(dsp.Gain(3.0), envelope), torch.zeros(1, 8))
    told: list[str] = []

    def work() -> Tuning:
        return tune_tasks(
            [task],
            records=tmp_path,
            board=find_board(BOARD),
            metric="instructions",
            trials=6,
            farm=f"rpc://{farm.tracker}/lab?board={BOARD}",
            say=told.append,
        )

    with ThreadPoolExecutor(1) as pool:
        tuning = pool.submit(work)
        assert soon(lambda: tuning.done() or kill_one(busy(lab)), 120.0)
        (kernel,) = tuning.result(600).kernels
    assert any(text.endswith("its candidates are measured elsewhere") for text in told)
    assert (kernel.trials, kernel.failed) == (6, 0)


QUICK = """from microddsp.micro.farm import server
server._TOO_SHORT_S, server._GREETING_S = 0.0, 3"""


@pytest.fixture(scope="module")
def quick(farm: Farm) -> subprocess.Popen[str]:
    """Two boards of a server that is patient for three seconds instead of ten."""
    words = ("serve", "--tracker", farm.tracker, "--board", BOARD, "--count", "2", "--key", "quick")
    return farm.start(*words, until=2, first=QUICK)


def test_every_server_that_ends_is_started_anew(farm: Farm, quick: subprocess.Popen[str]) -> None:
    told = farm.listening(quick)
    for number in range(100):
        servers = psutil.Process(quick.pid).children()
        assert len(servers) == 2
        servers[number % 2].kill()
        # At once: it is the next one's end that can be missed, while this one comes up.
        anew = told + number + 1
        assert soon(lambda anew=anew: farm.listening(quick) == anew, every_s=0.001)


def test_who_connects_and_says_nothing_does_not_keep_a_board(
    farm: Farm, quick: subprocess.Popen[str], image: bytes
) -> None:
    tracker = parse_tracker(farm.tracker)
    servers = psutil.Process(quick.pid).children()
    ports = [c.laddr.port for s in servers for c in s.net_connections("tcp") if not c.raddr]
    silent = [socket.create_connection(("127.0.0.1", port)) for port in ports]
    silent += [acquire(tracker, "quick", 60.0) for _ in ports]  # greet, and start no session
    links = [request(tracker, "quick", image, find_board(BOARD), wait_s=60.0) for _ in ports]
    try:
        time.sleep(3.5)  # a session is not ended for its silence
        for link in links:
            assert int(link.call(lambda link=link: link.device.available_global_memory)) > 0
    finally:
        for end in (*links, *silent):
            end.close()


def test_nothing_is_left_of_a_farm_that_is_killed_in_use(
    farm: Farm, lab: subprocess.Popen[str], image: bytes, running: Running
) -> None:
    link = request(farm.tracker, "lab", image, find_board(BOARD))
    below = [p.pid for p in psutil.Process(lab.pid).children(recursive=True)]
    assert len(below) == 5  # servers; session, bridge, emulator
    lab.kill()
    assert soon(lambda: not any(map(running, below)))
    with pytest.raises(ServerLostError):
        link.call(link.session.get_function, "process")
    link.close()
    with pytest.raises(BoardError, match="has no board 'lab'"):
        request(farm.tracker, "lab", image, find_board(BOARD), wait_s=0.0)
