"""The client's end of the project API: a template's server program, started, asked and ended."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from microddsp.errors import TemplateError, TemplateLostError, TemplateTimeoutError
from microddsp.micro.project_api import server as api
from microddsp.micro.project_api.messages import Messages, Reply, data_of, info_of, transport_of

# How long a method may take. A build may be that of a whole operating system.
LIMITS_S: Mapping[str, float] = {
    "server_info_query": 30.0,
    "generate_project": 300.0,
    "build": 3600.0,
    "flash": 600.0,
    "open_transport": 60.0,
    "close_transport": 10.0,
    "read_transport": 10.0,  # beside the time that it is asked to wait
    "write_transport": 10.0,
}
ASK_S, STOP_S = 1.0, 3.0
_CHECK_S = 0.25
_CHUNK = 1 << 16
_LINES = 12
_KEPT = 400
_CHARACTERS = 400
_LOGGER = logging.getLogger("microddsp.template")


class Server:
    """A running server program: its process, its descriptors, and what it writes.

    The process leads a group of its own, which ends as a whole. `words` is -1 when it has closed
    its terminal.
    """

    def __init__(self, folder: Path) -> None:
        """Start the program of a template or a project.

        Raises:
            TemplateError: There is none, or it cannot be started.
        """
        program = folder / api.PROGRAM
        if not program.is_file():
            raise TemplateError(
                f"has no {api.PROGRAM}", where=str(folder), hint="docs/project-api.md tells how"
            )
        self.folder = folder
        theirs_in, self.requests = os.pipe()
        self.replies, theirs_out = os.pipe()
        self.words, their_words = os.pipe()
        # A make that called us must not hand its job server to theirs.
        environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
        ends = ("--read-fd", str(theirs_in), "--write-fd", str(theirs_out))
        try:
            self._process = subprocess.Popen(
                [sys.executable, str(program.resolve()), *ends],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=their_words,
                stderr=their_words,
                pass_fds=(theirs_in, theirs_out),
                start_new_session=True,
            )
        except OSError as error:
            self._close_ours()
            raise TemplateError(f"does not start: {error}", where=str(program)) from error
        finally:
            for fd in (theirs_in, theirs_out, their_words):
                os.close(fd)
        for fd in (self.requests, self.replies, self.words):
            os.set_blocking(fd, False)
        self.said: deque[str] = deque(maxlen=_KEPT)
        self._begun = b""
        self.running = True

    @property
    def process_id(self) -> int:
        return self._process.pid

    def ended(self) -> bool:
        """Whether the program has ended; its number stays its own until `stop`."""
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, how) is not None

    def lines(self) -> list[str]:
        """What it wrote to its terminal meanwhile, as lines of bounded length."""
        try:
            said = os.read(self.words, _CHUNK) if self.words >= 0 else b""
        except BlockingIOError:
            return []
        if not said and self.words >= 0:
            os.close(self.words)
            self.words = -1
        *whole, begun = (self._begun + said).split(b"\n")
        self._begun = begun[:_CHARACTERS]
        texts = [line[:_CHARACTERS].decode(errors="replace").rstrip() for line in whole]
        found = [text for text in texts if text]
        self.said += found
        return found

    def last_words(self) -> str:
        """The last lines that it wrote."""
        self.listen()
        return "\n".join([*list(self.said)[-_LINES:], self._begun.decode(errors="replace")]).strip()

    def listen(self) -> None:
        """Take what it has written until now."""
        for _ in range(_LINES):  # those that it started may write for ever
            for line in self.lines():
                _LOGGER.info("%s", line)

    def stop(self) -> int:
        """End the program and all that it started; its status. May be called again."""
        if self.running:
            self.running = False
            os.close(self.requests)  # it lets the device go, and ends
            self.requests = -1
            start = time.monotonic()
            asked = False
            while not self.ended() and time.monotonic() < start + STOP_S:
                if not asked and time.monotonic() > start + ASK_S:
                    asked = True
                    self._process.terminate()  # it is in the middle of something
                self.lines()  # nor does a full pipe hold it
                time.sleep(0.002)
            os.killpg(self._process.pid, signal.SIGKILL)  # of an ended leader the others
            self._process.wait()
            self._close_ours()
        return self._process.returncode

    def _close_ours(self) -> None:
        for fd in (self.requests, self.replies, self.words):
            if fd >= 0:
                os.close(fd)
        self.requests = self.replies = self.words = -1


class ProjectClient:
    """Calls the methods of a server program. Close it, or use it as a context manager.

    Where the program ends, hangs, or answers what makes no sense, it is stopped, and every later
    call raises TemplateLostError.
    """

    def __init__(self, folder: Path, limits_s: Mapping[str, float] | None = None) -> None:
        """Start it; `limits_s` replaces some of LIMITS_S.

        Raises:
            TemplateError: There is no program, or it does not start.
        """
        self._limits_s = {**LIMITS_S, **(limits_s or {})}
        self.messages = Messages()
        self.server = Server(folder)

    def info(self) -> api.ServerInfo:
        """What the server says of itself; versions are compared on both sides.

        Raises:
            TemplateVersionError: They differ.
            TemplateError: As of every method.
        """
        return self._checked(info_of, self._call("server_info_query", version=api.VERSION))

    def generate_project(
        self, archive: Path, runtime_dir: Path, project_dir: Path, options: Mapping[str, Any]
    ) -> None:
        """As the server's."""
        self._call(
            "generate_project",
            archive=str(archive.resolve()),
            runtime_dir=str(runtime_dir.resolve()),
            project_dir=str(project_dir.resolve()),
            options=dict(options),
        )

    def build(self, options: Mapping[str, Any]) -> None:
        """As the server's."""
        self._call("build", options=dict(options))

    def flash(self, options: Mapping[str, Any]) -> None:
        """As the server's."""
        self._call("flash", options=dict(options))

    def open_transport(self, options: Mapping[str, Any]) -> api.TransportInfo:
        """As the server's."""
        return self._checked(transport_of, self._call("open_transport", options=dict(options)))

    def close_transport(self) -> None:
        """As the server's."""
        self._call("close_transport")

    def read_transport(self, n: int, timeout: float) -> bytes:
        """As the server's.

        Raises:
            IoTimeoutError, TransportClosedError: As there.
        """
        found = self._call("read_transport", more_s=timeout, n=n, timeout=timeout)
        return self._checked(lambda result: data_of(result, n), found)

    def write_transport(self, data: bytes, timeout: float) -> None:
        """As the server's.

        Raises:
            IoTimeoutError, TransportClosedError: As there.
        """
        self._call("write_transport", more_s=timeout, data=data, timeout=timeout)

    def close(self) -> None:
        """End the server; no process is left then. May be called again."""
        self.server.stop()

    def __enter__(self) -> ProjectClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, method: str, more_s: float = 0.0, **params: Any) -> Any:
        if not self.server.running:
            raise TemplateLostError("the server has ended", where=str(self.server.folder))
        outgoing = bytearray(self.messages.request(method, params))
        self.server.said.clear()
        limit_s = self._limits_s[method] + more_s
        try:
            reply = self._wait(method, outgoing, limit_s)
        except TemplateError as error:
            error.where = str(self.server.folder)
            raise
        except BaseException:
            self.close()  # the answer would be that of the next question
            raise
        self.server.listen()
        if reply.error:
            reply.error.where = str(self.server.folder)
            reply.error.output = "\n".join(self.server.said)
            raise reply.error
        return reply.result

    def _wait(self, method: str, outgoing: bytearray, limit_s: float) -> Reply:
        server = self.server
        deadline = time.monotonic() + limit_s
        while True:
            left = deadline - time.monotonic()
            if left <= 0.0:
                self._end(TemplateTimeoutError(f"{method} did not end within {limit_s:g} s"))
            gone = server.ended()  # before looking: its last answer may be there
            writing = [server.requests] if outgoing else []
            reading = [fd for fd in (server.replies, server.words) if fd >= 0]
            readable, writable, _ = select.select(reading, writing, [], min(left, _CHECK_S))
            if server.words in readable:
                server.listen()
            if writable:
                self._write(outgoing)
            if server.replies in readable:
                reply = self._read(method)
                if reply:
                    return reply
            elif gone:
                self._gone(method)

    def _write(self, outgoing: bytearray) -> None:
        try:
            del outgoing[: os.write(self.server.requests, outgoing[:_CHUNK])]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            outgoing.clear()  # it is gone: reading from it says so

    def _read(self, method: str) -> Reply | None:
        data = os.read(self.server.replies, _CHUNK)
        if not data:
            self._gone(method)
        try:
            replies = self.messages.feed(data)
        except TemplateLostError as error:
            self._end(error)
        if len(replies) > 1:
            self._end(TemplateLostError("there is a reply that nobody asked for"))
        return replies[0] if replies else None

    def _checked(self, check: Any, result: object) -> Any:
        try:
            return check(result)
        except TemplateError as error:
            error.where = str(self.server.folder)
            self.close()
            raise

    def _gone(self, method: str) -> NoReturn:
        words = self.server.last_words()
        self._end(TemplateLostError(f"the server ended in {method}" + f":\n{words}" * bool(words)))

    def _end(self, error: TemplateError) -> NoReturn:
        self.close()
        raise error
