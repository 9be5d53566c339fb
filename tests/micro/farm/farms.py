"""A tracker and servers for tests, as processes, and what a test asks of them."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from microddsp.micro.boards import find_board
from microddsp.micro.farm import parse_tracker, request, tracker_status
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.rpc.link import Link

Maker = Callable[..., CompiledModel]
Running = Callable[[int], bool]

ROOT = Path(__file__).resolve().parents[3]
BOARD = "mps2-an386"
ONES = np.ones((1, 8), np.float32)
# What the signal's first sample asks for: 2 hangs, 3 reads where no memory is, 4 logs.
BODY = """    for (int32_t i = 0; i < 8; ++i) {
        self->sum += x[i];
        y[i] = self->sum;
    }
    if (x[0] == 2.0f) {
        for (volatile int32_t forever = 1; forever != 0;) {
        }
    }
    if (x[0] == 3.0f) {
        y[0] = *(volatile float *)0xf0000000u;
    }
    if (x[0] == 4.0f) {
        rpc_log(RPC_LOG_WARNING, "four");
    }"""


@dataclass
class Farm:
    """A tracker and servers, as processes of their own."""

    tracker: str
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    told: dict[int, list[str]] = field(default_factory=dict)

    def start(self, *arguments: str, until: int, first: str = "") -> subprocess.Popen[str]:
        """`microddsp farm ...`; returns when so many lines tell that it listens.
        `first` are statements that its process executes before."""
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"{first}\nfrom microddsp.cli.app import main; main()",
                "farm",
                *arguments,
            ],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )
        self.processes.append(process)
        assert process.stderr
        lines = self.told[process.pid] = []
        while self.listening(process) < until:
            line = process.stderr.readline()
            assert line, "".join(lines)
            lines.append(line)
        rest = process.stderr
        threading.Thread(target=lambda: lines.extend(rest), daemon=True).start()
        return process

    def listening(self, process: subprocess.Popen[str]) -> int:
        """How often it told that something listens."""
        return sum(" on 127.0.0.1:" in line for line in self.told[process.pid])

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait(60)


@contextmanager
def nobody_listens() -> Iterator[str]:
    """An address that nobody else can have meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def new_farm(first: str = "") -> Farm:
    farm = Farm("")
    tracker = farm.start("tracker", "--port", "0", until=1, first=first)
    found = re.search(r" on (127\.0\.0\.1:\d+)", farm.told[tracker.pid][-1])
    assert found
    farm.tracker = found[1]
    return farm


def address(farm: Farm) -> str:
    return f"rpc://{farm.tracker}/{BOARD}"


def ask(farm: Farm, image: bytes, **more: float) -> Link:
    return request(farm.tracker, BOARD, image, find_board(BOARD), **more)


def soon(condition: Callable[[], bool], within_s: float = 60.0, every_s: float = 0.02) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(every_s)
    return False


def free(farm: Farm) -> int:
    return sum(status.free for status in tracker_status(parse_tracker(farm.tracker)))
