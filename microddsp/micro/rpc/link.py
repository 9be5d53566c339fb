"""A TVM RPC session with a device, opened with care and closed without leftovers."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from microddsp.errors import BoardError, DeviceTimeoutError, LinkError
from microddsp.micro.boards import Board
from microddsp.micro.tools import find_tool

_BRIDGE = Path(__file__).with_name("bridge.py")
_CLOSE_S = 5.0
# Those that a program cannot hold back, or that say that it is broken.
_PASS = {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGILL,
    signal.SIGFPE,
    signal.SIGABRT,
    signal.SIGTRAP,
}

_P = ParamSpec("_P")
_R = TypeVar("_R")


def qemu_command(board: Board, image: Path) -> list[str]:
    """How the emulator is started with a firmware.

    Raises:
        BoardError: The emulator or the firmware is not there.
    """
    qemu = find_tool(board.qemu.binary, f"run {board.name}")
    if not image.is_file():
        raise BoardError(f"there is no firmware {str(image)!r}", hint="build the project first")
    return [
        *(qemu, "-M", board.qemu.machine, "-icount", f"shift={board.qemu.icount_shift}"),
        *("-display", "none", "-nodefaults", "-nic", "none", "-no-reboot"),
        *("-semihosting-config", "enable=on,target=native"),
        *("-kernel", str(image.resolve())),
    ]


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Signals wait for the end of the block.

    A handler that runs during an RPC makes TVM's client lose its place in the stream: every later
    answer would be that of another question. The device's time limit bounds the wait.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.valid_signals()) - _PASS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def call(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """One or more RPCs, with TVM's errors as ours.

    Raises:
        DeviceTimeoutError: No answer within the session's time; the device was stopped.
        LinkError: The device stopped, or it answered with an error.
    """
    with signals_held_back():
        try:
            return function(*args, **kwargs)
        except (RuntimeError, MemoryError, ValueError, OSError, AttributeError) as error:
            raise _as_link_error(error) from error


def _as_link_error(error: BaseException) -> LinkError:
    text = " ".join(str(error).split())
    for mark in ("Error caught from RPC call: ", "RPCError: "):
        text = text.rpartition(mark)[2]
    if "RPCSessionTimeoutError" in f"{type(error).__name__} {text}":
        return DeviceTimeoutError(
            text.rpartition("RPCSessionTimeoutError: ")[2],
            hint="a larger timeout_s if the block needs that long; open the board again",
        )
    if "DeviceLost: " in text:
        return LinkError(text.rpartition("DeviceLost: ")[2], hint="open the board again")
    if "DeviceFault: " in text:
        return LinkError(f"fault on the device: {text.rpartition('DeviceFault: ')[2]}")
    if "MemoryError: " in text:
        return LinkError(text.rpartition("MemoryError: ")[2], hint="give fewer blocks at once")
    return LinkError(text)


class Link:
    """An open session. `session` is the `tvm.rpc.RPCSession`; use `call` around what it does."""

    def __init__(self, command: list[str], timeout_s: float) -> None:
        """Start the device behind a bridge; returns when it answers.

        Raises:
            BoardError: The time limit makes no sense.
            LinkError: The device does not come up.
        """
        if not 0.0 < timeout_s < 1e6:
            raise BoardError(f"timeout_s must be positive, got {timeout_s}")
        import tvm
        from tvm.rpc.client import RPCSession

        create = tvm.get_global_func("rpc.CreatePipeClient")
        self._status, theirs = os.pipe()
        os.set_inheritable(theirs, True)
        # A failing exec would kill our whole process group: only start what is surely there.
        if not (sys.executable and os.access(sys.executable, os.X_OK)):
            raise BoardError("this Python has no executable to start the bridge with")
        try:
            self.session: Any = call(
                lambda: RPCSession(
                    create(
                        *(sys.executable, "-S", "-E", str(_BRIDGE), str(theirs)),
                        *(repr(float(timeout_s)), *command),
                    )
                )
            )
        except LinkError as error:
            os.close(theirs)
            said = _read_line(self._status, _CLOSE_S)
            _wait_for_end(self._status, said)
            if said.startswith("error "):
                raise LinkError(f"the emulator does not start: {said[6:]}") from error
            raise
        os.close(theirs)
        self._said = _read_line(self._status, _CLOSE_S)
        self.device = self.session.cpu(0)
        self._finalizer = weakref.finalize(self, _wait_for_end, self._status, self._said)

    @property
    def closed(self) -> bool:
        return self.session is None

    def process_ids(self) -> tuple[int, ...]:
        """Of the bridge and the emulator."""
        return _process_ids(self._said)

    def close(self) -> None:
        """End the session; no process is left afterwards. May be called again."""
        if self.session is None:
            return
        with signals_held_back():
            self.device = None
            self.session = None
            self._finalizer()


def _process_ids(said: str) -> tuple[int, ...]:
    words = said.split()
    return tuple(map(int, words[1:])) if words[:1] == ["started"] else ()


def _read_line(fd: int, limit_s: float) -> str:
    readable, _, _ = select.select([fd], [], [], limit_s)
    return os.read(fd, 4096).decode().strip() if readable else ""


def _wait_for_end(status: int, said: str) -> None:
    """Wait until bridge and emulator are gone, end what is not, and collect the bridge.

    The client has killed the bridge by now, if its session is gone; the emulator dies with it.
    """
    pids = _process_ids(said)
    deadline = time.monotonic() + _CLOSE_S
    if pids:
        _kill(pids[0])
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        try:
            os.waitpid(pids[0], os.WNOHANG)
        except ChildProcessError:
            pass  # collected before
        time.sleep(0.002)
    for pid in pids[1:]:
        if _runs(pid):
            _kill(pid)
    os.close(status)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # gone


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z" or _is_child(stat)


def _is_child(stat: str) -> bool:
    return int(stat.rpartition(")")[2].split()[1]) == os.getpid()
