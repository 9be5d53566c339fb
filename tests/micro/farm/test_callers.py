"""What may call a server or a tracker, and when: nothing of it keeps a board or is left behind."""

from __future__ import annotations

import resource
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from microddsp.errors import BoardError, LinkError, ServerLostError
from microddsp.micro.boards import find_board
from microddsp.micro.farm import parse_tracker, request_and_run, server, tracker_status
from microddsp.micro.farm.refusals import refusal, refused
from microddsp.micro.farm.tracker import acquire
from microddsp.micro.rpc import link as links
from microddsp.micro.rpc.link import Link
from tests.micro.farm.farms import BOARD, Farm, Running, ask, free, new_farm, soon

pytestmark = pytest.mark.qemu

IMPATIENT = "from microddsp.micro.farm import server, tracker\n"
IMPATIENT += "server._TOO_SHORT_S, server._GREETING_S, tracker._GREETING_S = 0.1, 2, 1.0"
GREETING = struct.pack("<i", 0xFF271)


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    """A tracker and a single board, that are patient for two seconds and for one."""
    made = new_farm(IMPATIENT)
    words = ("serve", "--tracker", made.tracker, "--board", BOARD)
    try:
        made.start(*words, until=1, first=IMPATIENT)
        yield made
    finally:
        made.stop()


@pytest.fixture(autouse=True)
def usable(farm: Farm) -> Iterator[None]:
    """The board is free before, and again after, each test."""
    assert soon(lambda: one_is_free(farm))
    yield
    assert soon(lambda: one_is_free(farm))


def one_is_free(farm: Farm) -> bool:
    try:
        return free(farm) == 1
    except BoardError:
        return False


def serving(farm: Farm) -> psutil.Process:
    """The server of the board."""
    (found,) = psutil.Process(farm.processes[1].pid).children()
    return found


def port_of(process: psutil.Process) -> int:
    (port,) = {c.laddr.port for c in process.net_connections("tcp") if c.status == "LISTEN"}
    return int(port)


def works(link: Link) -> bool:
    return int(link.call(lambda: link.device.available_global_memory)) > 0


@contextmanager
def few_descriptors(process: subprocess.Popen[str], more: int) -> Iterator[None]:
    """The process may open so many more."""
    before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    now = max(map(int, (p.name for p in Path(f"/proc/{process.pid}/fd").iterdir())))
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (now + 1 + more, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)


@contextmanager
def trickle(connection: socket.socket, begin: bytes) -> Iterator[None]:
    """It sends this, then a byte now and then."""
    enough = threading.Event()

    def send() -> None:
        try:
            connection.sendall(begin)
            while not enough.wait(0.2):
                connection.sendall(b"x")
        except OSError:
            return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def test_silence_after_a_session_does_not_keep_the_board(farm: Farm, image: bytes) -> None:
    ask(farm, image).close()
    with acquire(parse_tracker(farm.tracker), BOARD, 60.0):  # greets, and starts no session
        link = ask(farm, image, wait_s=60.0)
        assert works(link)
        link.close()


def test_a_byte_now_and_then_does_not_keep_the_board(farm: Farm, image: bytes) -> None:
    with (
        socket.create_connection(("127.0.0.1", port_of(serving(farm)))) as slow,
        trickle(slow, GREETING + struct.pack("<i", 1 << 19)),
    ):
        link = ask(farm, image, wait_s=60.0)
        assert works(link)
        link.close()


@pytest.mark.parametrize("length", [-1, 2**31 - 1])
def test_a_length_that_no_greeting_has_ends_no_server(
    farm: Farm, image: bytes, length: int
) -> None:
    before = serving(farm)
    with socket.create_connection(("127.0.0.1", port_of(before))) as connection:
        connection.sendall(GREETING + struct.pack("<i", length))
        connection.settimeout(60.0)
        assert not _received(connection)  # it hangs up
    ask(farm, image).close()
    assert serving(farm) == before


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1)
    except ConnectionError:
        return b""


def test_a_server_that_is_killed_before_its_session_began_comes_back(
    farm: Farm, running: Running
) -> None:
    told = farm.listening(farm.processes[1])
    victim = serving(farm)
    with (
        acquire(parse_tracker(farm.tracker), BOARD, 60.0) as begins,
        trickle(begins, struct.pack("<Q", 1 << 20)),  # a session's first request, never whole
    ):
        assert soon(lambda: bool(victim.children()))
        (session,) = victim.children()
        folder = Path(session.cwd())
        victim.kill()
        assert soon(lambda: not running(session.pid))
        assert soon(lambda: farm.listening(farm.processes[1]) == told + 1)
        assert soon(lambda: not folder.exists())


def lose_the_server(farm: Farm) -> None:
    """It is killed, and started anew half a second after the tracker knows of it."""
    serve = farm.processes[1]
    victim = serving(farm)
    serve.send_signal(signal.SIGSTOP)
    try:
        victim.kill()
        assert soon(lambda: not tracker_status(parse_tracker(farm.tracker)))
    finally:
        threading.Timer(0.5, serve.send_signal, (signal.SIGCONT,)).start()


def test_a_job_waits_for_the_only_server(
    farm: Farm, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microddsp.micro.farm.tracker._COMES_BACK_S", 0.0)
    attempts: list[Link] = []

    def work(link: Link) -> bool:
        attempts.append(link)
        if len(attempts) == 1:
            lose_the_server(farm)
        return works(link)

    assert request_and_run(farm.tracker, BOARD, image, find_board(BOARD), work)
    assert len(attempts) == 2


def test_a_request_waits_a_moment_for_a_server_that_comes_back(
    farm: Farm, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microddsp.micro.farm.tracker._COMES_BACK_S", 60.0)
    lose_the_server(farm)
    link = ask(farm, image)
    assert works(link)
    link.close()


def test_a_bridge_that_is_killed_is_a_lost_server(farm: Farm, image: bytes) -> None:
    link = ask(farm, image)
    below = serving(farm).children(recursive=True)
    (bridge,) = (p for p in below if any("bridge.py" in word for word in p.cmdline()))
    bridge.kill()
    with pytest.raises(ServerLostError, match="the bridge to the device is gone"):
        works(link)
    link.close()


def test_a_bridge_that_ends_while_it_starts_is_not_waited_for(
    image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "bridge_command", lambda *_: ["/bin/false"])
    place = server.Place(find_board(BOARD), BOARD)
    start = time.monotonic()
    with pytest.raises(ServerLostError, match="the server's bridge is gone") as caught:
        server._start_device(place, image, 5.0)
    assert time.monotonic() - start < 20.0  # it would wait for words of a bridge for 30 s
    told = refusal(str(refused(caught.value)))  # as a client is told
    assert isinstance(told, ServerLostError)


def test_a_session_that_fails_at_its_beginning_leaves_nothing(
    farm: Farm, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.pid for p in psutil.Process().children()}
    monkeypatch.setattr(links, "LOG_LINES", "no.such.function")
    with pytest.raises(LinkError) as kept:
        ask(farm, image)
    assert kept.value
    assert {p.pid for p in psutil.Process().children()} <= before
    assert soon(lambda: one_is_free(farm))


def test_a_tracker_without_descriptors_goes_on_when_it_has_some(farm: Farm) -> None:
    host, _, port = farm.tracker.rpartition(":")
    with few_descriptors(farm.processes[0], more=2):
        callers = [socket.create_connection((host, int(port))) for _ in range(8)]
        try:  # those that say nothing are let go after a second, and their places are taken
            assert soon(lambda: one_is_free(farm))
        finally:
            for caller in callers:
                caller.close()


def test_what_is_no_message_is_not_kept_by_the_tracker(farm: Farm) -> None:
    host, _, port = farm.tracker.rpartition(":")
    greeting = struct.pack("<i", 0x2F271)
    for sent in (b"", b"ab", greeting + struct.pack("<i", 3) + b"\xff\xfe\xfd"):
        with socket.create_connection((host, int(port))) as caller:
            caller.settimeout(60.0)
            caller.sendall(sent[:4])
            if len(sent) > 4:
                assert caller.recv(4) == greeting
                caller.sendall(sent[4:])
            assert not _received(caller)


def test_farm_serve_goes_on_when_it_has_descriptors_again(farm: Farm) -> None:
    serve = farm.processes[1]
    told = farm.listening(serve)
    with few_descriptors(serve, more=-3):
        serving(farm).kill()
        assert soon(lambda: any("Too many open files" in line for line in farm.told[serve.pid]))
    assert soon(lambda: farm.listening(serve) == told + 1)


STARTING = "import time\nfrom microddsp.micro.farm import server\n"
STARTING += "server._listen = lambda *_: time.sleep(1e6)"
AGAIN = """from multiprocessing.process import BaseProcess
def again(_):
    raise KeyboardInterrupt
BaseProcess.kill = again"""


@pytest.mark.parametrize(
    ("first", "listening"), [(STARTING, 0), (AGAIN, 1)], ids=["it starts", "it ends"]
)
def test_farm_serve_can_be_ended_while_a_server_starts_and_while_it_ends(
    farm: Farm, running: Running, first: str, listening: int
) -> None:
    words = ("serve", "--tracker", farm.tracker, "--board", BOARD, "--key", "slow")
    serve = farm.start(*words, until=listening, first=first)
    assert soon(lambda: bool(psutil.Process(serve.pid).children()))
    (served,) = psutil.Process(serve.pid).children()
    serve.terminate()
    try:
        assert serve.wait(60.0) == 0
    finally:
        serve.kill()
    assert not running(served.pid)
