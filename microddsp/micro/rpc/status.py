"""What the bridge tells beside the RPC: how it started, then the device's log lines."""

from __future__ import annotations

import logging
import math
import os
import select
import time
from collections.abc import Iterable


class StatusLines:
    """Lines from a pipe; the descriptor is somebody else's to close."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._bytes = b""

    def first(self, timeout_s: float) -> str:
        """The next line, waited for; "" if there is none."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._bytes:
            if not self._read(max(0.0, deadline - time.monotonic())):
                break
        line, _, self._bytes = self._bytes.partition(b"\n")
        return line.decode(errors="replace").strip()

    def log(self, logger: logging.Logger) -> None:
        """Hand on the lines that are there: `log LEVEL text`."""
        while self._read(0.0):
            pass
        *lines, self._bytes = self._bytes.split(b"\n")
        found = [line.decode(errors="replace").partition(" ") for line in lines]
        log_lines([rest for kind, _, rest in found if kind == "log"], logger)

    def _read(self, timeout_s: float) -> bool:
        poll = select.poll()  # any descriptor: a program may have more than select can name
        poll.register(self._fd, select.POLLIN)
        readable = poll.poll(math.ceil(1000 * timeout_s))
        data = os.read(self._fd, 1 << 16) if readable else b""
        self._bytes += data
        return bool(data)


def log_lines(lines: Iterable[str], logger: logging.Logger) -> None:
    """Hand on lines of `LEVEL text`."""
    for line in lines:
        level, _, text = line.partition(" ")
        if level.isdecimal():
            logger.log(int(level), "%s", text)
