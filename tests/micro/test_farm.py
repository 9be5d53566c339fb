"""Boards behind a tracker: used like boards of one's own, shared, lost, and said so."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from microddsp import dsp
from microddsp.cli.app import main
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
from microddsp.micro.farm.tracker import acquire
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.platforms import build_project, create_project
from microddsp.micro.rpc.link import Link
from microddsp.micro.session import BoardSession, open_board
from microddsp.micro.targets import find_target
from microddsp.signature import OutputStructure
from microddsp.tuning.measure import Values
from microddsp.tuning.objects import build_all
from microddsp.tuning.remote import Boards
from microddsp.tuning.report import Tuning
from microddsp.tuning.session import tune_tasks
from microddsp.tuning.task import Candidate, tuning_tasks
from tests.micro.noisy_line import NoisyLine

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

    def start(self, *arguments: str, until: int, first: str = "") -> subprocess.Popen[str]:
        """`microddsp farm ...`; returns when so many lines tell that it listens.
        `first` are statements that its process executes before."""
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"{first}\nfrom microddsp.cli.app import main; main()",
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
        while self.listening(process) < until:
            line = process.stderr.readline()
            assert line, "".join(lines)
            lines.append(line)
        rest = process.stderr
        threading.Thread(target=lambda: lines.extend(rest), daemon=True).start()
        return process

    def listening(self, process: subprocess.Popen[str]) -> int:
        """How often it told that something listens."""
        return sum(" on 127.0.0.1:" in line for line in self.told[process.pid])

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


def soon(condition: Callable[[], bool], within_s: float = 20.0, every_s: float = 0.02) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(every_s)
    return False


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
    link = request(farm.tracker, "lab", image, find_board(BOARD))
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
    assert time.monotonic() - start < 15.0
    assert soon(lambda: in_lab(farm) == 2)  # started anew


def test_a_server_that_stands_still_is_lost_in_time(
    farm: Farm, lab: subprocess.Popen[str], image: bytes
) -> None:
    link = request(farm.tracker, "lab", image, find_board(BOARD), timeout_s=0.5)
    stopped = server_of(lab, link).children()[0]
    stopped.suspend()
    start = time.monotonic()
    with pytest.raises(ServerLostError, match="has not answered for 5.5 s"):
        link.call(link.session.get_function, "process")
    assert 5.0 < time.monotonic() - start < 20.0
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
        timeout_s=5.0,
        say=told.append,
    )
    assert soon(lambda: in_lab(farm) == 2)
    with ThreadPoolExecutor(1) as pool:
        measuring = pool.submit(boards.measure, list(zip(candidates, built, strict=True)))
        assert soon(lambda: measuring.done() or kill_one(busy(lab)))
        outcomes = measuring.result(60)
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
        assert soon(lambda: tuning.done() or kill_one(busy(lab)), 60.0)
        (kernel,) = tuning.result(200).kernels
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
    silent += [acquire(tracker, "quick", 20.0) for _ in ports]  # greet, and start no session
    links = [request(tracker, "quick", image, find_board(BOARD), wait_s=20.0) for _ in ports]
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
        request(farm.tracker, "lab", image, find_board(BOARD))


LINE = """description = "this computer behind a serial line"
target = "host"
clock_hz = 1_000_000_000
stack_bytes = 1048576
[ram]
origin = 0
kbytes = 4096
[serial]
driver = "uart_posix.c"
baud = 4_000_000
flash = ["cp", "--remove-destination", "{image}", "IMAGE"]
reset = ["kill", "-USR1", "RELAY"]
"""


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
        serve.wait(20)
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
    with pytest.raises(SystemExit) as ended:
        main(["farm", "serve", "--tracker", f"127.0.0.1:{free_port()}", "--host", "0.0.0.0"])
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
            waiting.result(20)
    assert board.run(ONES)[0, -1] == 8.0
    other.close()
