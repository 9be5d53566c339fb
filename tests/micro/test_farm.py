"""Boards behind a tracker: used like boards of one's own, shared, lost, and said so."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest

from microddsp.errors import (
    BoardError,
    DeviceFaultError,
    DeviceTimeoutError,
    ServerLostError,
)
from microddsp.micro.aot.kernel import Kernel, Parameter
from microddsp.micro.boards import find_board
from microddsp.micro.farm import (
    parse_tracker,
    request,
    request_and_run,
    tracker_status,
)
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.platforms import build_project, create_project
from microddsp.micro.rpc.link import Link
from microddsp.micro.session import BoardSession, open_board
from microddsp.micro.targets import find_target
from microddsp.tuning.measure import Values
from microddsp.tuning.objects import build_all
from microddsp.tuning.remote import Boards
from microddsp.tuning.task import Candidate

pytestmark = pytest.mark.qemu
Maker = Callable[..., CompiledModel]
Running = Callable[[int], bool]

ROOT = Path(__file__).resolve().parents[2]
BOARD = "mps2-an386"
ONES = np.ones((1, 8), np.float32)
# What the signal's first sample asks for: 2 hangs, 3 reads where no memory is, 4 logs.
BODY = """    for (int32_t i = 0; i < 8; ++i) {
        self->sum += x[i];
        y[i] = self->sum;
    }
    if (x[0] == 2.0f) {
        for (volatile int32_t forever = 1; forever != 0;) {
        }
    }
    if (x[0] == 3.0f) {
        y[0] = *(volatile float *)0xf0000000u;
    }
    if (x[0] == 4.0f) {
        rpc_log(RPC_LOG_WARNING, "four");
    }"""


@dataclass
class Farm:
    """A tracker and servers, as processes of their own."""

    tracker: str
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    told: dict[int, list[str]] = field(default_factory=dict)

    def start(self, *arguments: str, until: int) -> subprocess.Popen[str]:
        """`microddsp farm ...`; returns when so many lines tell that it listens."""
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from microddsp.cli.app import main; main()",
                "farm",
                *arguments,
            ],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )
        self.processes.append(process)
        assert process.stderr
        lines = self.told[process.pid] = []
        while sum(" on 127.0.0.1:" in line for line in lines) < until:
            line = process.stderr.readline()
            assert line, "".join(lines)
            lines.append(line)
        rest = process.stderr
        threading.Thread(target=lambda: lines.extend(rest), daemon=True).start()
        return process

    def servers(self, process: subprocess.Popen[str]) -> list[psutil.Process]:
        return psutil.Process(process.pid).children()

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait(20)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def new_farm() -> Farm:
    port = free_port()
    farm = Farm(f"127.0.0.1:{port}")
    farm.start("tracker", "--port", str(port), until=1)
    return farm


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    """A tracker with two boards."""
    made = new_farm()
    try:
        made.start("serve", "--tracker", made.tracker, "--board", BOARD, "--count", "2", until=2)
        yield made
    finally:
        made.stop()


def address(farm: Farm) -> str:
    return f"rpc://{farm.tracker}/{BOARD}"


@pytest.fixture(scope="module")
def board(farm: Farm, probe: Maker) -> Iterator[BoardSession]:
    with open_board(address(farm), probe(BODY, helpers='#include "rpc_server.h"\n')) as session:
        yield session


@pytest.fixture(scope="module")
def image(probe: Maker, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A firmware with the same model."""
    folder = tmp_path_factory.mktemp("project")
    create_project(folder / "p", probe(BODY, helpers='#include "rpc_server.h"\n'), BOARD)
    return build_project(folder / "p").read_bytes()


def ask(farm: Farm, image: bytes, **more: float) -> Link:
    return request(farm.tracker, BOARD, image, find_board(BOARD), **more)


def soon(condition: Callable[[], bool], within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def free(farm: Farm) -> int:
    return sum(status.free for status in tracker_status(parse_tracker(farm.tracker)))


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
    link = ask(farm, image, timeout_s=1.0)
    hang = link.call(link.session.get_function, "process")
    import tvm

    tensors = [tvm.runtime.tensor(2 * ONES, link.device), tvm.runtime.tensor(ONES, link.device)]
    start = time.monotonic()
    with pytest.raises(DeviceTimeoutError, match="for 1 s, it was stopped\n"):
        link.call(hang, *tensors)
    assert time.monotonic() - start < 10.0
    del hang, tensors
    link.close()
    assert soon(lambda: free(farm) == before)


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


def test_a_client_that_is_killed_frees_its_board(farm: Farm, image: bytes, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(image)
    before = free(farm)
    script = f"""
import pathlib, time
from microddsp.micro.aot.kernel import Kernel, Parameter
from microddsp.micro.boards import find_board
from microddsp.micro.farm import request
image = pathlib.Path({str(tmp_path / "image")!r}).read_bytes()
link = request({farm.tracker!r}, {BOARD!r}, image, find_board({BOARD!r}))
print("open", flush=True)
time.sleep(60)
"""
    client = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert client.stdout and client.stdout.readline() == "open\n"
    assert free(farm) == before - 1
    client.kill()
    client.wait()
    client.stdout.close()
    assert soon(lambda: free(farm) == before)


def test_the_server_refuses_firmware_for_another_board(farm: Farm, image: bytes) -> None:
    with pytest.raises(BoardError, match="for mps2-an385, the farm's mps2-an386 is a mps2-an386"):
        request(farm.tracker, BOARD, image, find_board("mps2-an385"))
    with pytest.raises(BoardError, match="no ELF file"):
        request(farm.tracker, BOARD, b"\x7fELK", find_board(BOARD))


def test_an_unknown_key_names_the_nearest(farm: Farm, probe: Maker, image: bytes) -> None:
    with pytest.raises(BoardError, match="has no board 'mps2-an38'.*\n.*did you mean 'mps2-an386'"):
        request(farm.tracker, "mps2-an38", image, find_board(BOARD))
    with pytest.raises(BoardError, match="has no board 'lab'"):
        open_board(f"rpc://{farm.tracker}/lab", probe())


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
    gone = f"127.0.0.1:{free_port()}"
    start = time.monotonic()
    with pytest.raises(BoardError, match="there is no tracker at .*refused"):
        request(gone, BOARD, image, find_board(BOARD))
    assert time.monotonic() - start < 2.0


def test_something_else_at_the_trackers_port_is_no_tracker(image: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as web:
        port = web.getsockname()[1]

        def answer() -> None:
            with web.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(BoardError, match="is no tracker"):
            request(f"127.0.0.1:{port}", BOARD, image, find_board(BOARD))


def test_a_farm_of_its_own_key_says_what_board_it_is_and_loses_no_job(
    farm: Farm, board: BoardSession, probe: Maker, image: bytes, running: Running
) -> None:
    """Two servers of a key that is no board's name; one is killed while all its jobs are on."""
    process = farm.start(
        *("serve", "--tracker", farm.tracker, "--board", BOARD, "--count", "2", "--key", "lab"),
        until=2,
    )
    with open_board(f"rpc://{farm.tracker}/lab", probe()) as session:
        assert session.board.name == BOARD
        assert session.run(ONES)[0, -1] == 8.0
    attempts: list[int] = []
    killed = threading.Event()

    def job(number: int) -> int:
        def work(link: Link) -> int:
            attempts.append(number)
            if number == 3 and not killed.is_set():
                victim = next(s for s in farm.servers(process) if s.children(recursive=True))
                below = [p.pid for p in victim.children(recursive=True)]
                assert len(below) == 3  # session, bridge, emulator
                victim.kill()
                killed.set()
                assert soon(lambda: not any(map(running, below)))
            return int(link.call(lambda: link.device.available_global_memory))

        return request_and_run(farm.tracker, "lab", image, find_board(BOARD), work)

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(job, range(12)))
    assert killed.is_set()
    assert len(answers) == 12
    assert len(attempts) > 12  # somebody had to start anew


def test_a_session_whose_server_is_killed_ends_with_an_error_of_its_own(
    farm: Farm, image: bytes, running: Running
) -> None:
    process = farm.start(
        *("serve", "--tracker", farm.tracker, "--board", BOARD, "--key", "one"), until=1
    )
    link = request(farm.tracker, "one", image, find_board(BOARD))
    (server,) = farm.servers(process)
    below = [p.pid for p in server.children(recursive=True)]
    server.kill()
    start = time.monotonic()
    for _ in range(2):
        with pytest.raises(ServerLostError, match="server is gone.*\n.*open the board again"):
            link.call(lambda: link.device.available_global_memory or 0 / 0)
    link.close()
    assert time.monotonic() - start < 15.0
    assert soon(lambda: not any(map(running, below)))
    # it is started anew, on the same terms
    assert soon(lambda: "one" in {s.key for s in tracker_status(parse_tracker(farm.tracker))})
    request(farm.tracker, "one", image, find_board(BOARD)).close()
    # nothing is left of a farm that is killed while somebody uses it
    link = request(farm.tracker, "one", image, find_board(BOARD))
    below = [p.pid for p in psutil.Process(process.pid).children(recursive=True)]
    assert len(below) == 4  # server, session, bridge, emulator
    process.kill()
    assert soon(lambda: not any(map(running, below)))
    with pytest.raises(ServerLostError):
        link.call(link.session.get_function, "process")
    link.close()


def test_candidates_of_a_lost_server_are_measured_on_another(farm: Farm, tmp_path: Path) -> None:
    process = farm.start(
        *("serve", "--tracker", farm.tracker, "--board", BOARD, "--count", "2", "--key", "tune"),
        until=2,
    )
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
        address=f"rpc://{farm.tracker}/tune?board={BOARD}",
        boards_at_once=2,
        timeout_s=5.0,
        say=told.append,
    )
    with ThreadPoolExecutor(1) as pool:
        measuring = pool.submit(boards.measure, list(zip(candidates, built, strict=True)))
        busy = [s for s in farm.servers(process) if soon(lambda s=s: bool(s.children(True)))]
        busy[0].kill()
        outcomes = measuring.result(60)
    assert told  # a server was lost, and what it had was measured elsewhere
    assert [bool(o.reason) for o in outcomes] == [i == 3 for i in range(8)]
    assert outcomes[3].reason.startswith("wrong: y is off by")
    counts = [o.figures["instructions"] for o in outcomes if not o.reason]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
