"""A device behind the transport of a third party's project. Standard library only.

Its server answers one request after the other, and a read holds it until something comes or its
time is over: it is asked to read while an answer is due, and a write and the read behind it are
sent together.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from pathlib import Path

from microddsp.errors import IoTimeoutError, TemplateError, TransportClosedError
from microddsp.micro.project_api import server as api
from microddsp.micro.project_api.client import ProjectClient
from microddsp.micro.project_api.messages import Messages, Reply, data_of
from microddsp.micro.rpc.frames import Frames

INFO = 20  # a level of Python's logging
CHUNK = 1 << 16
READ_S = 0.5  # a read is asked for again then
WRITE_S = 30.0
SILENCE = "RPCSessionTimeoutError: no answer from the device for {:g} s, it was stopped"


class TemplateLink:
    """`read` and `write` are those of the messages; `send` takes what is for the device."""

    greets = True
    silence = SILENCE

    def __init__(self, folder: Path, options: str) -> None:
        """Start the server and open its transport.

        Raises:
            OSError: One or the other fails.
        """
        self._lost = ""  # why there is no device any more
        try:
            client = ProjectClient(folder)
            try:
                client.info()
                info = client.open_transport(json.loads(options))
            except BaseException:
                client.close()
                raise
        except TemplateError as error:
            raise OSError(_in_a_line(error)) from error
        self._server = client.server
        self._messages: Messages = client.messages
        self.start_s = info.session_start_s
        self.answer_s = info.session_established_s
        self.moved = 0
        session = int.from_bytes(os.urandom(2), "little") or 1
        self._frames = Frames(session, info.baud, time.monotonic()) if info.baud else None
        self._for_device = bytearray()
        self._for_server = bytearray()
        self._writing: deque[int] = deque()  # bytes of a write that is not answered
        self._reading = False
        self._due = False

    @property
    def process_id(self) -> int:
        return self._server.process_id

    @property
    def from_device(self) -> int:
        return self._server.replies

    @property
    def to_device(self) -> int:
        return self._server.requests

    @property
    def words(self) -> int:
        return self._server.words

    def send(self, packet: bytes) -> None:
        if self._frames:
            self._frames.send(packet, time.monotonic())
        else:
            self._for_device += packet
        self._ask()

    def wants_to_write(self) -> bool:
        return bool(self._for_server)

    def write(self) -> None:
        try:
            del self._for_server[: os.write(self._server.requests, self._for_server[:CHUNK])]
        except BlockingIOError:
            pass
        except OSError:
            self._for_server.clear()  # it is gone: reading from it says so

    def read(self) -> bytes | None:
        try:
            data = os.read(self._server.replies, CHUNK)
        except BlockingIOError:
            return b""
        if not data:
            said = self._server.last_words().rpartition("\n")[2]
            self._lost = "the template's server ended" + f": {said}" * bool(said)
            return None
        received = bytearray()
        try:
            for reply in self._messages.feed(data):
                received += self._take(reply)
        except TemplateError as error:
            self._lost = _in_a_line(error)
            return None
        return bytes(received)

    def deadline(self) -> float | None:
        return self._frames.deadline() if self._frames else None

    def tick(self) -> None:
        if self._frames:
            self._frames.tick(time.monotonic())
        self._ask()

    def answer_is_due(self, due: bool) -> None:
        self._due = due
        if self._frames:
            self._frames.expect(due, time.monotonic())
        self._ask()

    def lines(self) -> list[tuple[int, str]]:
        return [(INFO, line) for line in self._server.lines()]

    def stop(self) -> int:
        return self._server.stop()

    def epitaph(self) -> str:
        self.stop()
        if self._frames and self._frames.lost:
            return "DeviceReset: the device was reset"
        known = self._lost.startswith(("DeviceLost: ", "DeviceReset: "))
        return self._lost if known else f"DeviceLost: the device stopped ({self._lost})"

    def _ask(self) -> None:
        """Give the server what is to be done next. Not at the end of `read`: who called knows only
        then whether more is due, and a read for nothing would hold back the next write."""
        outgoing = self._frames.outgoing if self._frames else self._for_device
        if outgoing and not self._writing and not self._reading:
            piece = bytes(outgoing[: api.MAX_DATA])
            del outgoing[: len(piece)]
            self._writing.append(len(piece))
            self._for_server += self._messages.request(
                "write_transport", {"data": piece, "timeout": WRITE_S}
            )
        due = self._due or self.deadline() is not None
        if due and not self._reading and not outgoing:
            self._reading = True
            self._for_server += self._messages.request(
                "read_transport", {"n": api.MAX_DATA, "timeout": self._patience()}
            )

    def _patience(self) -> float:
        """A line wants to repeat what is lost, and cannot while a read goes on."""
        at = self.deadline()
        return READ_S if at is None else min(READ_S, max(0.0, at - time.monotonic()))

    def _take(self, reply: Reply) -> bytes:
        """What an answer has of the device's bytes."""
        if reply.method == "write_transport":
            written = self._writing.popleft()
            if reply.error:
                raise reply.error
            self.moved += 0 if self._frames else written
            return b""
        self._reading = False
        if isinstance(reply.error, IoTimeoutError):
            return b""
        if reply.error:
            raise reply.error
        data = data_of(reply.result, api.MAX_DATA)
        if not self._frames:
            self.moved += len(data)
            return data
        received = self._frames.feed(data, time.monotonic())
        self.moved = self._frames.moved
        if self._frames.lost:
            raise TransportClosedError("DeviceReset: the device was reset")
        return received


def _in_a_line(error: TemplateError) -> str:
    """With the line of the server's own program that failed."""
    places = [line for line in error.server_traceback.splitlines() if line.startswith("  File ")]
    where = f" ({places[-1].strip()})" if places and error.code == api.SERVER_ERROR else ""
    return " ".join(f"{error.message}{where}".split())
