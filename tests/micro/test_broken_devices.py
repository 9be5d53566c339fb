"""Devices that die, hang or fault, hosts that are killed: an error in time, nothing left over."""

from __future__ import annotations

import gc
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microddsp.errors import DeviceLostError, DeviceTimeoutError, LinkError
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.rpc import bridge
from microddsp.micro.rpc.bridge import LINK_IN, LINK_OUT, LOG, Device
from microddsp.micro.rpc.link import Link
from microddsp.micro.session import open_board

pytestmark = pytest.mark.qemu
Maker = Callable[..., CompiledModel]
Running = Callable[[int], bool]

ROOT = Path(__file__).resolve().parents[2]
ONES = np.ones((1, 8), np.float32)
# Hangs where the signal says so.
BODY = """    self->sum = 0.0f;
    y[0] = x[0];
    if (x[0] == 2.0f) {
        for (volatile int32_t forever = 1; forever != 0;) {
        }
    }"""


def gone(pids: list[int], running: Running) -> bool:
    deadline = time.monotonic() + 60.0
    while any(map(running, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(running, pids))


def test_a_hanging_device_is_an_error_within_the_time_set(probe: Maker, running: Running) -> None:
    board = open_board("mps2-an386", probe(BODY), timeout_s=2.0)
    pids = board._link.process_ids()
    start = time.monotonic()
    with pytest.raises(DeviceTimeoutError, match="2 s"):
        board.run(2 * ONES)
    # the upper bound leaves room for a busy computer
    assert 1.9 < time.monotonic() - start < 60.0
    took = []
    for _ in range(5):
        start = time.monotonic()
        with pytest.raises(DeviceTimeoutError):
            board.run(ONES)
        took.append(time.monotonic() - start)
    assert min(took) < 1.0  # it is known to be dead: nobody waits again
    board.close()
    gc.collect()
    assert not any(running(pid) for pid in pids)


def test_time_for_which_the_computer_stands_still_is_not_the_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bridge is not run for two seconds; the answer comes before it is again."""
    packet = struct.pack("<Qi", 4, 4)
    greet, answer = (f"printf '{_octal(data)}' >&{LINK_OUT}" for data in (bytes(8), packet))
    script = f"{greet}; head -c {len(packet)} <&{LINK_IN} >/dev/null; sleep 1.3; {answer}"
    device = Device(["bash", "-c", script])
    theirs, requests = os.pipe()
    replies, ours = os.pipe()
    status = os.open(os.devnull, os.O_WRONLY)
    wait = select.select
    stood_still: list[float] = []

    def select_late(*which: Any) -> Any:
        found = wait(*which)
        if not any(found) and served.waiting and served.ready and not stood_still:
            time.sleep(2.0)
            stood_still.append(2.0)
        return found

    monkeypatch.setattr(select, "select", select_late)
    served = bridge.Bridge(device, status, theirs, ours, timeout_s=1.2)
    running = threading.Thread(target=served.run)
    running.start()
    os.write(requests, packet)
    assert os.read(replies, 1000) == packet
    assert stood_still
    os.close(requests)
    running.join()
    device.stop()
    ends = (device.words, device.to_device, device.from_device)
    for fd in (theirs, replies, ours, status, *ends):
        os.close(fd)


def _octal(data: bytes) -> str:
    return "".join(f"\\{byte:03o}" for byte in data)


def test_a_killed_emulator_is_an_error_at_once(probe: Maker, running: Running) -> None:
    board = open_board("mps2-an386", probe(), timeout_s=100.0)
    bridge, emulator = board._link.process_ids()
    os.kill(emulator, signal.SIGKILL)
    start = time.monotonic()
    for _ in range(2):
        with pytest.raises(LinkError, match="the device stopped"):
            board.run(ONES)
    board.close()
    assert time.monotonic() - start < 60.0
    assert not running(bridge)


def test_an_emulator_killed_during_a_call_is_an_error_at_once(probe: Maker) -> None:
    with open_board("mps2-an386", probe(BODY), timeout_s=100.0) as board:
        emulator = board._link.process_ids()[1]
        timer = threading.Timer(0.3, os.kill, (emulator, signal.SIGKILL))
        timer.start()
        start = time.monotonic()
        with pytest.raises(LinkError, match="the device stopped"):
            board.run(2 * ONES)
        assert time.monotonic() - start < 60.0


def test_a_killed_bridge_is_an_error_and_takes_the_emulator_along(
    probe: Maker, running: Running
) -> None:
    with open_board("mps2-an386", probe()) as board:
        bridge, emulator = board._link.process_ids()
        os.kill(bridge, signal.SIGKILL)
        with pytest.raises(LinkError):
            board.run(ONES)
    assert gone([emulator], running)


def test_closing_leaves_no_process_and_no_descriptor(probe: Maker, running: Running) -> None:
    with open_board("mps2-an386", probe()):
        pass  # what TVM itself keeps open is open now
    before = set(os.listdir("/proc/self/fd"))
    with open_board("mps2-an386", probe()) as board:
        pids = board._link.process_ids()
        assert len(pids) == 2
        assert all(running(pid) for pid in pids)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_session_that_is_only_forgotten_leaves_no_process(probe: Maker, running: Running) -> None:
    board = open_board("mps2-an386", probe())
    pids = board._link.process_ids()
    del board
    gc.collect()
    assert not any(running(pid) for pid in pids)


def test_an_emulator_that_does_not_start_says_why() -> None:
    with pytest.raises(LinkError, match="unsupported machine type"):
        Link(["spawn", "qemu-system-arm", "-M", "nothing", "-display", "none"], 5.0)


def test_a_missing_emulator_is_named() -> None:
    with pytest.raises(LinkError, match="does not start.*no-such-emulator"):
        Link(["spawn", "no-such-emulator"], 5.0)


@pytest.mark.parametrize(
    ("says", "error", "words"),
    [
        (b"Booting\n", DeviceLostError, "no answer: b'Booting"),
        (struct.pack("<Qii", 11, LOG, 20) + b"hi\n", DeviceTimeoutError, "for 1 s"),
        (bytes(8), DeviceLostError, r"no answer: b'(\\x00){8}'"),
        (2 * struct.pack("<Qii", 8, 4, 0), DeviceLostError, r"no answer: b'\\x08"),
    ],
    ids=["text", "log lines", "nothing", "answers that nobody asked for"],
)
def test_a_device_that_never_stops_talking_is_an_error_in_time(
    says: bytes, error: type[LinkError], words: str
) -> None:
    greeting = b"" if says == b"Booting\n" else bytes(8)
    script = (
        f"import os; os.write({LINK_OUT}, {greeting!r})\nwhile 1: os.write({LINK_OUT}, {says!r})"
    )
    start = time.monotonic()
    with pytest.raises(error, match=words):
        link = Link(["spawn", sys.executable, "-S", "-c", script], 1.0)
        link.call(link.session.get_function, "process")
    assert time.monotonic() - start < 60.0


def test_a_device_has_its_descriptors_whatever_else_has_these_numbers() -> None:
    script = f"echo words; read line <&{LINK_IN}; echo $line >&{LINK_OUT}"
    for count in range(60):
        used = [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
        before = len(os.listdir("/proc/self/fd"))
        device = Device(["bash", "-c", script])
        os.write(device.to_device, b"ping\n")
        assert select.select([device.from_device], [], [], 60.0)[0]
        assert os.read(device.from_device, 100) == b"ping\n"
        device.process.wait()
        assert [text for _, text in device.lines()] == ["words"]
        for fd in (device.to_device, device.from_device, device.words):
            os.close(fd)
        assert len(os.listdir("/proc/self/fd")) == before
        for fd in used:
            os.close(fd)


SCRIPT = """
import signal as signals
import sys
signals.signal(signals.SIGINT, signals.default_int_handler)  # a shell's background job ignores it
import numpy as np
sys.path.insert(0, {tests!r})
from conftest import make_model
from microddsp.micro.session import open_board
with open_board("mps2-an386", make_model()) as board:
    print(*board._link.process_ids(), flush=True)
    signal = np.ones((1, 8 * 20), np.float32)
    while True:
        board.run(signal)
"""


@pytest.fixture
def streaming_process(tmp_path: Path) -> Callable[[], tuple[subprocess.Popen[str], list[int]]]:
    """Starts a Python that streams for ever; gives it and the processes that it started."""

    def start() -> tuple[subprocess.Popen[str], list[int]]:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT.format(tests=str(Path(__file__).parent))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        assert process.stdout
        pids = list(map(int, process.stdout.readline().split()))
        assert len(pids) == 2, process.communicate()[1]
        time.sleep(0.2)
        return process, pids

    return start


def test_ctrl_c_ends_a_program_cleanly(
    streaming_process: Callable[[], tuple[subprocess.Popen[str], list[int]]], running: Running
) -> None:
    process, pids = streaming_process()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group
    errors = process.communicate(timeout=60)[1]
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "LinkError" not in errors
    assert "InternalError" not in errors
    assert gone(pids, running)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_program_leaves_nothing(
    streaming_process: Callable[[], tuple[subprocess.Popen[str], list[int]]],
    running: Running,
    how: signal.Signals,
) -> None:
    process, pids = streaming_process()
    process.send_signal(how)
    process.communicate(timeout=60)
    assert gone(pids, running)


def test_a_signal_handler_does_not_break_a_session(probe: Maker) -> None:
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    try:
        with open_board("mps2-an386", probe()) as board:
            signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
            signals = np.ones((1, 8 * 500), np.float32)
            for _ in range(3):
                assert board.run(signals)[0, -1] == 4000.0
            signal.setitimer(signal.ITIMER_REAL, 0.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert len(seen) > 10
