"""A firmware under a server for gdb: stopped before its first instruction, then fed with blocks."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import psutil

from microddsp.errors import BoardError, LinkError
from microddsp.micro.boards import Board, check_portless
from microddsp.micro.platforms import Project
from microddsp.micro.platforms.flash import fill
from microddsp.micro.rpc.start import check_built
from microddsp.micro.rpc.symbols import Symbols
from microddsp.micro.session import BoardSession, open_link
from microddsp.micro.tools import find_tool

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LOOPBACK = "127.0.0.1"
# A person looks at a stopped device: it is never too late.
_PATIENCE_S = 7 * 24 * 3600.0
_PAUSE_S = 0.1
_END_S = 5.0
_START_S = 20.0
_DEBUGGERS = ("gdb-multiarch", "arm-none-eabi-gdb", "gdb")


class DebugServer:
    """A project's firmware with a server for gdb at `address`; `gdb_command` is for a shell.

    An emulated board is started here and waits for gdb. Once it is let go, blocks of `signals`, or
    of silence, go through the model again and again, so that breakpoints in it are met. A real
    board is not fed: its server is the command `debug` of its file. Close it; nothing is left then.
    """

    def __init__(
        self,
        project: Project,
        signals: Sequence[NDArray[np.generic]] | None = None,
        *,
        gdb_port: int | None = None,
        port: str | None = None,
        serial_number: str | None = None,
    ) -> None:
        """Start the server.

        Raises:
            BoardError: The project is not built, its board has no server for gdb, or the port is
                taken.
            ParameterError: A serial port is given for a board that has none.
        """
        self.board = _board_to_debug(project)
        check_portless(self.board, port, serial_number)
        check_built(project.image)
        number = _free_port(gdb_port or 0)
        self.address = f"{_LOOPBACK}:{number}"
        function = f"{project.signatures[0].name}_process"
        self.gdb_command = _gdb_command(project.image, self.address, function)
        self.has_lines = Symbols(project.image).has_lines
        self._ending = False
        self._error: BoardError | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._project = project
        self._thread: threading.Thread | None = None
        self._fed = threading.Event()
        if self.board.serial:
            self._server = _start_server(
                self.board, project.image, str(number), port, serial_number
            )
        else:
            self._signals = list(signals) if signals is not None else _silence(project)
            # RPCs hold back signals: in a thread of their own, Ctrl-C is for the one that waits.
            self._thread = threading.Thread(target=self._feed, daemon=True)
            self._thread.start()
            self._until_it_listens(number)

    def _until_it_listens(self, number: int) -> None:
        """What is told of a server is true then: gdb can reach it."""
        end = time.monotonic() + _START_S
        while not _is_taken(number):
            if self._error is not None:
                raise self._error
            if time.monotonic() > end:
                self.close()
                raise BoardError(f"the emulator does not listen on {self.address}")
            time.sleep(_PAUSE_S / 10)

    def _feed(self) -> None:
        extra = ("-S", "-gdb", f"tcp:{self.address}")
        try:
            link = open_link(self._project, timeout_s=_PATIENCE_S, extra=extra)
            with BoardSession(self._project, link=link) as session:
                model = next(iter(session.models.values()))
                while not self._ending:
                    try:
                        model.run(*self._signals, tail="drop")
                    except LinkError:
                        model.reset()  # a fault that gdb has seen; fails too if there is no device
                    threading.Event().wait(_PAUSE_S)
        except BoardError as error:
            self._error = error
        finally:
            self._fed.set()

    def wait(self) -> None:
        """Until the firmware ends, which an emulator does where gdb kills it.

        Raises:
            BoardError: The server did not start.
        """
        if self._server is not None:
            status = self._server.wait()
            if status:
                raise BoardError(f"the server for gdb ended with status {status}")
        elif self._thread is not None:
            # No join: an interrupt in it marks a thread that runs as ended (CPython 3.11).
            while not self._fed.wait(0.5):
                pass
            if self._error is not None and not self._ending:
                raise self._error

    def close(self) -> None:
        """End the server and the emulator; may be called again."""
        self._ending = True
        if self._server is not None:
            self._server.terminate()
            self._server.wait(_END_S)
        if self._thread is not None and not self._fed.is_set():
            self._end_bridge()
            self._fed.wait(_END_S)

    def _end_bridge(self) -> None:
        """It takes the emulator with it, and whoever waits for an answer hears of it."""
        killed = []
        for process in psutil.Process().children(recursive=True):
            try:
                if f"tcp:{self.address}" in process.cmdline():
                    process.kill()
                    killed.append(process)
            except psutil.Error:
                continue  # it has ended meanwhile
        psutil.wait_procs(killed, timeout=_END_S)

    def __enter__(self) -> DebugServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _board_to_debug(project: Project) -> Board:
    board = project.board
    if board is None:
        raise BoardError(f"a {project.platform} project is debugged with your own tools")
    if board.serial and not board.serial.debug:
        raise BoardError(
            f"the file of {board.name} names no server for gdb",
            hint='debug = ["pyocd", "gdbserver", "-t", "...", "-p", "{gdb_port}"] in [serial]',
        )
    if board.qemu is None and board.serial is None:
        raise BoardError(
            f"{board.name} is a process of this computer",
            hint="gdb -p PID, with the number of what `microddsp run` has started",
        )
    return board


def _silence(project: Project) -> list[NDArray[np.generic]]:
    return [
        np.zeros(spec.shape[::-1] if spec.interleaved else spec.shape, spec.dtype)
        for spec in project.signatures[0].inputs
    ]


def _start_server(
    board: Board, image: Path, gdb_port: str, port: str | None, serial_number: str | None
) -> subprocess.Popen[bytes]:
    assert board.serial
    words = fill(
        board.serial.debug, image, port=port, serial_number=serial_number, gdb_port=gdb_port
    )
    tool = find_tool(words[0], f"debug {board.name}")
    return subprocess.Popen([tool, *words[1:]], stdin=subprocess.DEVNULL)


def _free_port(wanted: int = 0) -> int:
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((_LOOPBACK, wanted))
        except OSError as error:
            raise BoardError(
                f"gdb cannot be served on port {wanted}: {error.strerror}",
                hint="another --gdb-port; without it a free one is found",
            ) from error
        return int(found.getsockname()[1])


def _is_taken(number: int) -> bool:
    try:
        _free_port(number)
    except BoardError:
        return True
    return False


def _gdb_command(image: Path, address: str, function: str) -> str:
    found = next((name for name in _DEBUGGERS if shutil.which(name)), _DEBUGGERS[0])
    steps = (f"target remote {address}", f"break {function}", "continue")
    return shlex.join(
        [found, str(image.resolve()), *(word for step in steps for word in ("-ex", step))]
    )
