"""A TVM RPC session with a device, opened with care and closed without leftovers."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from microddsp.errors import (
    BoardError,
    DeviceLostError,
    DeviceMemoryError,
    DeviceResetError,
    DeviceTimeoutError,
    LinkError,
    ParameterError,
    ServerLostError,
)
from microddsp.micro.rpc.asides import FUNCTION as LOG_LINES
from microddsp.micro.rpc.faults import MARK, fault_error
from microddsp.micro.rpc.status import StatusLines, log_lines
from microddsp.micro.rpc.symbols import Symbols

_BRIDGE = Path(__file__).with_name("bridge.py")
_CLOSE_S = 5.0
# What TVM says where nobody reads what it asks, or nobody answers.
_CHANNEL_ENDED = ("Pipe write error", "(code == RPCCode::kReturn) is false")
MAX_TIMEOUT_S = 1e6
# All but those that a program cannot hold back, or that say that it is broken.
_HELD_BACK = frozenset(signal.valid_signals()) - {
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


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Signals wait for the end of the block.

    A handler that runs during an RPC makes TVM's client lose its place in the stream: every later
    answer would be that of another question. The device's time limit bounds the wait.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # Inside the try: this call itself may raise what a handler raises, after it has blocked.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def call(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """One or more RPCs, with TVM's errors as ours; `Link.call` knows the firmware's names too.

    Raises:
        DeviceTimeoutError: No answer within the session's time; the device was stopped.
        DeviceFaultError: The program on the device failed.
        DeviceLostError: The device ended.
        LinkError: The device answered with an error.
    """
    return _call(None, function, args, kwargs)


def _call(
    symbols: Symbols | None,
    function: Callable[..., _R],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    between: type[DeviceLostError] = DeviceLostError,
) -> _R:
    with signals_held_back():
        try:
            return function(*args, **kwargs)
        except (RuntimeError, MemoryError, ValueError, OSError, AttributeError) as error:
            raise _as_link_error(error, symbols, between) from error


def _as_link_error(
    error: BaseException, symbols: Symbols | None, between: type[DeviceLostError]
) -> LinkError:
    """`between` is the error where a bridge ended, here or at a server."""
    text = " ".join(str(error).split())
    for mark in ("Error caught from RPC call: ", "RPCError: "):
        text = text.rpartition(mark)[2]
    lost = "DeviceLost: " in text
    if "RPCSessionTimeoutError" in f"{type(error).__name__} {text}":
        return DeviceTimeoutError(
            text.rpartition("RPCSessionTimeoutError: ")[2],
            hint="a larger timeout_s if the block needs that long; open the board again",
        )
    if MARK in text:
        return fault_error(text.rpartition(MARK)[2], symbols, lost=lost)
    if lost:
        return DeviceLostError(text.rpartition("DeviceLost: ")[2], hint="open the board again")
    if "ServerLost: " in text:
        return ServerLostError(
            text.rpartition("ServerLost: ")[2], hint="open the board again: another one is taken"
        )
    if "DeviceReset: " in text:
        return DeviceResetError(
            text.rpartition("DeviceReset: ")[2],
            hint="a watchdog, the supply, or the program itself; open the board again",
        )
    if "MemoryError: " in text:
        return DeviceMemoryError(
            text.rpartition("MemoryError: ")[2], hint="give fewer blocks at once"
        )
    if any(words in text for words in _CHANNEL_ENDED):
        return between("the bridge to the device is gone", hint="open the board again")
    return LinkError(text)


# Those that this process opened and has not closed.
_OPEN: weakref.WeakSet[Link] = weakref.WeakSet()


def _let_go_after_fork() -> None:
    """In a forked child: the sessions are the parent's. Nothing here may end or disturb them.

    What TVM holds is never released, because its destructors would talk to the device.
    """
    for link in list(_OPEN):
        link._end.detach()
        for thing in link._held:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
        link._held.clear()
    _OPEN.clear()


os.register_at_fork(after_in_child=_let_go_after_fork)


def check_timeout(timeout_s: float) -> None:
    """Raises ParameterError where a time limit makes no sense."""
    if not 0.0 < timeout_s < MAX_TIMEOUT_S:
        raise ParameterError(
            f"timeout_s must be above 0 and below {MAX_TIMEOUT_S:g} seconds, got {timeout_s:g}"
        )


def bridge_command(status: int, timeout_s: float) -> list[str]:
    """How the bridge is started, without what it shall reach; `status` is where it tells.

    Raises:
        BoardError: This Python has no executable.
    """
    # A failing exec would kill our whole process group: start only what is surely there.
    if not (sys.executable and os.access(sys.executable, os.X_OK)):
        raise BoardError("this Python has no executable to start the bridge with")
    return [sys.executable, "-S", "-E", str(_BRIDGE), str(status), repr(float(timeout_s))]


class Link:
    """An open session with a device; use `call` around what `session` does."""

    def __init__(
        self,
        command: list[str],
        timeout_s: float,
        image: Path | None = None,
        name: str = "device",
        *,
        asks_for_logs: bool = False,
    ) -> None:
        """Start the device behind a bridge; returns when it answers.

        Args:
            command: How it is reached, from `start_command`.
            timeout_s: It must answer every call within this.
            image: Its firmware, whose names make errors readable.
            name: Of its logger, below `microddsp`.
            asks_for_logs: Log lines come as answers of a function, not from the bridge here.

        Raises:
            ParameterError: The time limit makes no sense.
            LinkError: The device does not come up.
        """
        check_timeout(timeout_s)
        self._symbols = Symbols(image) if image is not None else None
        self._logger = logging.getLogger(f"microddsp.{name}")
        self._log_lines: int | None = None
        self._between = ServerLostError if asks_for_logs else DeviceLostError
        with signals_held_back():
            self._open(command, timeout_s)
        if asks_for_logs:
            find = self.session.get_function
            try:
                self._log_lines = self.hold(self.call(find, LOG_LINES))
            except BaseException:
                self.close()  # at once, however long the error is kept
                raise

    def _open(self, command: list[str], timeout_s: float) -> None:
        import tvm
        from tvm.rpc.client import RPCSession

        create = tvm.get_global_func("rpc.CreatePipeClient")
        status, theirs = os.pipe()
        os.set_inheritable(theirs, True)
        self._status = StatusLines(status)
        bridge = bridge_command(theirs, timeout_s)
        try:
            session = call(lambda: RPCSession(create(*bridge, *command)))
        except LinkError as error:
            os.close(theirs)
            words = self._status.first(_CLOSE_S)
            _end(status, _numbers(words), [])
            if words.startswith("error "):
                reason = words.split(maxsplit=2)[2]
                raise LinkError(f"the device does not start: {reason}") from error
            raise
        os.close(theirs)
        self._held: list[Any] = [session]
        self._pids = _numbers(self._status.first(_CLOSE_S))
        self._end = weakref.finalize(self, _end, status, self._pids, self._held)
        _OPEN.add(self)

    def call(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """As the function `call`; errors name functions of this firmware, and what the device
        logged meanwhile goes to Python's `logging`."""
        try:
            return _call(self._symbols, function, args, kwargs, self._between)
        finally:
            if not self.closed:
                self._status.log(self._logger)
                self._ask_for_logs()

    def _ask_for_logs(self) -> None:
        if self._log_lines is None:
            return
        try:
            lines = _call(None, self.held(self._log_lines), (), {})
        except LinkError:
            return  # nobody is there to tell them
        log_lines(str(lines).splitlines(), self._logger)

    def hold(self, thing: Any) -> int:
        """Keep what the session gave, functions and tensors, until it ends. Nobody else may.
        `held` gives it for the number."""
        self._held.append(thing)
        return len(self._held) - 1

    def held(self, number: int) -> Any:
        return self._held[number]

    @property
    def session(self) -> Any:
        """The `tvm.rpc.RPCSession`."""
        return self._held[0]

    @property
    def device(self) -> Any:
        """Where tensors live."""
        return self._held[0].cpu(0)

    @property
    def closed(self) -> bool:
        return not self._held

    def process_ids(self) -> tuple[int, ...]:
        """Of the bridge and the emulator."""
        return self._pids

    def close(self) -> None:
        """End the session; no process is left afterwards. May be called again."""
        _OPEN.discard(self)
        with signals_held_back():
            self._end()


def _numbers(words: str) -> tuple[int, ...]:
    return tuple(int(word) for word in words.split() if word.isdecimal())


def _end(status: int, pids: tuple[int, ...], held: list[Any]) -> None:
    """Let the bridge end the emulator and itself, then drop the session, then collect the bridge.

    In this order: the session's destructor kills the bridge by its number, which must not be
    another process's by then.
    """
    while len(held) > 1:
        held.pop()  # what the session gave is released through it, while there is a peer
    os.close(status)
    if pids:
        _kill(pids[0], signal.SIGTERM)
        deadline = time.monotonic() + _CLOSE_S
        while _runs(pids[0]):
            if time.monotonic() > deadline:
                _kill(pids[0], signal.SIGKILL)
            time.sleep(0.001)
    held.clear()
    if pids:
        try:
            os.waitpid(pids[0], 0)
        except ChildProcessError:
            pass  # someone else collected it


def _kill(pid: int, how: signal.Signals) -> None:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        pass  # gone


def _runs(pid: int) -> bool:
    """Whether a child has not ended yet; it stays uncollected."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False
