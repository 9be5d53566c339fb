"""The bridge's way to a board of a farm: a connection to its server. Standard library only."""

from __future__ import annotations

import os
import struct
from pathlib import Path

_INIT = 2
_CHUNK = 1 << 16


class Remote:
    """A server that starts a device for us; it has a bridge of its own beside that.

    It listens at once, and takes what it shall start with the first request: TVM's client sends
    that one without arguments, and those in the file `constructor` are put in.
    """

    process_id = 0
    words = -1
    greets = False
    silence = "ServerLost: the board's server has not answered for {:g} s"

    def __init__(self, fd: int, constructor: Path, start_s: float) -> None:
        """`start_s`: the server's device may take that long to come up."""
        self.from_device = self.to_device = fd
        os.set_blocking(fd, False)
        self.start_s = start_s
        self.moved = 0
        self._arguments = constructor.read_bytes()
        self._outgoing = bytearray()

    def send(self, packet: bytes) -> None:
        if len(packet) >= 12 and struct.unpack_from("<i", packet, 8)[0] == _INIT:
            body = packet[8:-4] + self._arguments  # in place of a count of 0
            packet = struct.pack("<Q", len(body)) + body
        self._outgoing += packet

    def wants_to_write(self) -> bool:
        return bool(self._outgoing)

    def write(self) -> None:
        try:
            written = os.write(self.to_device, self._outgoing[:_CHUNK])
        except OSError:
            return  # it is gone: reading says so
        del self._outgoing[:written]
        self.moved += written

    def read(self) -> bytes | None:
        try:
            data = os.read(self.from_device, _CHUNK)
        except BlockingIOError:
            return b""
        except OSError:
            return None
        self.moved += len(data)
        return data or None

    def deadline(self) -> float | None:
        return None

    def tick(self) -> None:
        pass

    def answer_is_due(self, due: bool) -> None:
        pass

    def lines(self) -> list[tuple[int, str]]:
        return []

    def stop(self) -> int:
        os.close(self.from_device)
        return 0

    def epitaph(self) -> str:
        self.stop()
        return "ServerLost: the board's server is gone"
