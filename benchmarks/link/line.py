"""A serial line of a certain rate: a pseudo-terminal before a process that is the device.

    python -S -E line.py IMAGE BAUD

Each byte takes ten bits' time, one after the other, both ways at once. Prints the port's path.
A program of its own, so that nobody's lock delays it.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
import tty
from collections import deque

_TICK_S = 0.0005


def line_board(baud: int) -> str:
    """What is behind such a line, as a board's file says it."""
    return f"""description = "this computer behind a serial line"
target = "host"
clock_hz = 1_000_000_000
stack_bytes = 1048576

[ram]
origin = 0
kbytes = 4096

[serial]
driver = "uart_posix.c"
baud = {baud}
"""


class Wire:
    """One direction: pieces of bytes, each with the time when it has arrived."""

    def __init__(self, to: int, byte_s: float) -> None:
        self.to, self.byte_s = to, byte_s
        self.free_at = 0.0
        self.pieces: deque[tuple[float, bytes]] = deque()

    def put(self, data: bytes, now: float) -> None:
        """A UART hands on each byte when its last bit is there: in pieces of a tick or less."""
        most = max(1, int(_TICK_S / self.byte_s))
        for i in range(0, len(data), most):
            piece = data[i : i + most]
            self.free_at = max(now, self.free_at) + len(piece) * self.byte_s
            self.pieces.append((self.free_at, piece))

    def deliver(self, now: float) -> None:
        while self.pieces and self.pieces[0][0] <= now:
            os.write(self.to, self.pieces.popleft()[1])

    def wait_s(self, now: float) -> float:
        return max(0.0, self.pieces[0][0] - now) if self.pieces else 1.0


def main(image: str, baud: int) -> None:
    device = subprocess.Popen([image], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert device.stdin and device.stdout
    master, slave = os.openpty()
    tty.setraw(slave)
    print(os.ttyname(slave), flush=True)
    wires = {
        master: Wire(device.stdin.fileno(), 10 / baud),
        device.stdout.fileno(): Wire(master, 10 / baud),
    }
    parent = os.getppid()
    try:
        while os.getppid() == parent:
            now = time.monotonic()
            patience = min(wire.wait_s(now) for wire in wires.values())
            readable = select.select(list(wires), [], [], patience)[0]
            now = time.monotonic()
            for fd in readable:
                wires[fd].put(os.read(fd, 4096), now)
            for wire in wires.values():
                wire.deliver(now)
    finally:
        device.kill()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
