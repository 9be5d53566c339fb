"""The boards of this computer, each behind a server of TVM's that a tracker hands out.

One process imports TVM and forks a server for each board. A server forks for each session, as
TVM's does, and the session's process starts the bridge. Each of them ends with its parent, so that
nothing is left whoever is killed; a server that ended is started anew.
"""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from microddsp.errors import BoardError, LinkError, ServerLostError
from microddsp.micro.boards import Board
from microddsp.micro.farm.address import Tracker
from microddsp.micro.farm.client import CONSTRUCTOR
from microddsp.micro.farm.described import BOARD_FUNCTION
from microddsp.micro.farm.guards import (
    children_end_with_us,
    end_with,
    limit_receiving,
    limit_silence,
    session_begins,
)
from microddsp.micro.farm.refusals import refused
from microddsp.micro.farm.tracker import tracker_status
from microddsp.micro.platforms.flash import flash_image
from microddsp.micro.rpc.boards_attached import find_port
from microddsp.micro.rpc.link import bridge_command, call
from microddsp.micro.rpc.start import start_command
from microddsp.micro.rpc.status import StatusLines

PORTS = (9091, 9991)
_MOST_BYTES = 256 << 20
_START_S = 60.0
_ANSWER_S = 30.0
_GREETING_S = 10
_TOO_SHORT_S = 2.0  # a server that ends so early would end again
_log = logging.getLogger("microddsp.farm")


@dataclass(frozen=True, slots=True)
class Place:
    """A board of this computer; `port` and `serial_number` say which, of real ones."""

    board: Board
    key: str
    port: str | None = None
    serial_number: str | None = None


@dataclass(frozen=True, slots=True)
class Listening:
    """How the servers listen: `announced` is the address that clients are told."""

    host: str = "127.0.0.1"
    ports: tuple[int, int] = PORTS
    announced: str | None = None


@dataclass(frozen=True, slots=True)
class _Served:
    """A server that was started, where it listens, when that was, and the folder of what it and its
    sessions write, which goes with it."""

    place: Place
    process: ForkProcess
    port: int
    since: float
    folder: tempfile.TemporaryDirectory[str]


def serve(
    places: Sequence[Place],
    tracker: Tracker,
    listening: Listening,
    started: Callable[[Place, int], None],
) -> None:
    """Serve boards until interrupted, which is a KeyboardInterrupt. For a process of its own.

    `started` is told each server's port, again for one that was started anew.

    Raises:
        BoardError: There is no tracker, a board is not there, or no port is free.
    """
    import tvm.rpc.server  # noqa: F401  once: what is forked from here has it

    tracker_status(tracker)
    for place in places:
        _check_there(place)
    served: list[_Served] = []

    def start(place: Place) -> None:
        served.append(_start(place, tracker, listening))
        started(place, served[-1].port)

    lost: list[Place] = []
    try:
        for place in places:
            start(place)
        while True:
            sentinels = [each.process.sentinel for each in served]
            ready = wait(sentinels, timeout=_TOO_SHORT_S if lost else None)
            for each in [each for each in served if each.process.sentinel in ready]:
                # What a process that ends says of itself changes from one question to the next:
                # its sentinel is ready before it has an exit code.
                each.process.join()
                each.folder.cleanup()
                served.remove(each)
                lost.append(each.place)
                _log.warning("a server of %s ended (%s)", each.place.key, each.process.exitcode)
                if time.monotonic() - each.since < _TOO_SHORT_S:
                    time.sleep(_TOO_SHORT_S)
                each.process.close()
            for place in list(lost):
                try:
                    start(place)
                    lost.remove(place)
                except (BoardError, OSError) as error:  # such as a port that another farm took
                    _log.warning("%s", getattr(error, "message", error))
    finally:
        # Also one that is just being started.
        for process in multiprocessing.active_children():
            process.kill()
        for process in multiprocessing.active_children():
            process.join()
        for each in served:
            each.folder.cleanup()


def _check_there(place: Place) -> None:
    if place.board.serial:
        find_port(place.board, port=place.port, serial_number=place.serial_number)
    elif place.board.qemu:
        start_command(place.board, Path(sys.executable))  # names a tool that is missing


def _start(place: Place, tracker: Tracker, listening: Listening) -> _Served:
    folder = tempfile.TemporaryDirectory(prefix="microddsp-farm-", ignore_cleanup_errors=True)
    ours, theirs = multiprocessing.Pipe(duplex=False)
    with ours:
        with theirs:
            process = multiprocessing.get_context("fork").Process(
                target=_run_server,
                args=(place, tracker, listening, folder.name, os.getpid(), theirs),
                daemon=True,  # Python ends it, and waits for no others, wherever we are interrupted
            )
            process.start()
        try:
            answer = ours.recv() if ours.poll(_START_S) else "it does not start"
        except EOFError:
            answer = "it ended"
    if isinstance(answer, int):
        return _Served(place, process, answer, time.monotonic(), folder)
    process.kill()
    process.join()
    folder.cleanup()
    raise BoardError(f"the server of {place.key} cannot listen: {answer}")


def _run_server(
    place: Place,
    tracker: Tracker,
    listening: Listening,
    folder: str,
    parent: int,
    told: Connection,
) -> None:
    """TVM's server: what `tvm.rpc.Server` runs in the interpreter that it starts."""
    import tvm_ffi

    end_with(parent)
    multiprocessing.current_process().daemon = False  # it may have sessions
    children_end_with_us()
    tempfile.tempdir = folder
    limit_receiving(_GREETING_S)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.excepthook = _one_line
    multiprocessing.set_start_method("fork", force=True)  # sessions know what is registered here
    tvm_ffi.register_global_func(
        CONSTRUCTOR, lambda *asked: _open_session(place, *asked), override=True
    )
    description = place.board.model_dump_json(exclude={"folder"}, exclude_none=True)
    tvm_ffi.register_global_func(BOARD_FUNCTION, lambda: description, override=True)
    try:
        state = _listen(place, tracker, listening)
    except (OSError, ValueError) as error:
        told.send(str(error))
        return
    limit_silence(state.sock, _GREETING_S)
    told.send(state.port)
    told.close()
    state.thread.join()


def _listen(place: Place, tracker: Tracker, listening: Listening) -> Any:
    from tvm.rpc.server import PopenRPCServerState

    while True:
        try:
            return PopenRPCServerState(
                listening.host,
                *listening.ports,
                tracker_addr=(tracker.host, tracker.port),
                key=place.key,
                custom_addr=listening.announced,
                silent=True,
            )
        except OSError as error:
            # Two that look for a port at once can have the same until one listens; taken ports
            # are passed over.
            if error.errno != errno.EADDRINUSE:
                raise


def _one_line(failed: threading.ExceptHookArgs) -> None:
    _log.warning("%s", failed.exc_value)


def _open_session(place: Place, board: str, image: bytes, timeout_s: float) -> Any:
    """Start the device with a client's firmware, in the session's own process."""
    try:
        if board != place.board.name:
            raise BoardError(
                f"the firmware is for {board}, the farm's {place.key} is a {place.board.name}",
                hint=f"?board={place.board.name}",
            )
        content = bytes(image)
        if not content.startswith(b"\x7fELF") or len(content) > _MOST_BYTES:
            raise BoardError("the firmware is no ELF file")
        session_begins()
        return _start_device(place, content, float(timeout_s))
    except BoardError as error:
        raise refused(error) from error


def _start_device(place: Place, image: bytes, timeout_s: float) -> Any:
    import tvm

    with _as_file(image) as path:
        port = None
        if place.board.serial:
            port = find_port(place.board, port=place.port, serial_number=place.serial_number)
            flash_image(place.board.serial, path, port, place.serial_number)
        command = start_command(place.board, path, port)
        status, theirs = os.pipe()
        os.set_inheritable(theirs, True)
        create = tvm.get_global_func("rpc.CreatePipeClient")
        try:
            # An emulator has read the firmware once it answers: the file may go.
            return call(lambda: create(*bridge_command(theirs, timeout_s), *command))
        except LinkError as error:
            os.close(theirs)  # a bridge that was killed tells nothing
            theirs = -1
            words = StatusLines(status).first(_ANSWER_S)
            if not words:
                raise ServerLostError("the server's bridge is gone") from error
            reason = words.split(maxsplit=2)[2] if words.startswith("error ") else error.message
            raise LinkError(f"the device does not start: {reason}") from error
        finally:
            # Nobody reads it from here: the bridge keeps log lines until the client asks.
            if theirs >= 0:
                os.close(theirs)
            os.close(status)


@contextmanager
def _as_file(image: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="microddsp-farm-") as folder:
        path = Path(folder, "firmware.elf")
        path.write_bytes(image)
        path.chmod(0o700)  # that of the board "host" is a program
        yield path
