"""A tracker and servers on this computer, and short jobs through them."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from microddsp.micro.farm import request_and_run
from microddsp.micro.platforms import Project
from microddsp.micro.rpc.link import Link

_COMMAND = (sys.executable, "-c", "from microddsp.cli.app import main; main()", "farm")


@contextmanager
def farm(board: str, count: int) -> Iterator[str]:
    """The tracker's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tracker = f"127.0.0.1:{port}"
    started = []
    try:
        started.append(_start("tracker", "--port", str(port), lines=1))
        started.append(
            _start(
                *("serve", "--tracker", tracker, "--board", board, "--count", str(count)),
                lines=count,
            )
        )
        yield tracker
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def _start(*words: str, lines: int) -> subprocess.Popen[str]:
    process = subprocess.Popen([*_COMMAND, *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for _ in range(lines):
        process.stderr.readline()
    return process


def jobs_per_second(tracker: str, project: Project, clients: int, jobs: int) -> float:
    """A job: ask for a board, send the firmware, a hundred calls, give the board back."""
    assert project.board
    board, image = project.board, project.image.read_bytes()

    def work(link: Link) -> None:
        reset = link.call(link.session.get_function, "reset")
        for _ in range(100):
            link.call(reset)

    def job(_: int) -> None:
        request_and_run(tracker, board.name, image, board, work)

    job(0)
    with ThreadPoolExecutor(clients) as pool:
        start = time.perf_counter()
        list(pool.map(job, range(jobs)))
        return jobs / (time.perf_counter() - start)
