"""Kernels of one call on several threads, as many as torch may use."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

import torch

# Waking a thread costs about as much as a kernel needs for so many samples.
SMALL = 1 << 15

Task = Callable[[], None]


class _Worker:
    """A thread that sleeps until it is given a task. A kernel takes as long as the machinery of
    futures, so there are two locks and nothing else."""

    def __init__(self) -> None:
        self._given, self._done = threading.Lock(), threading.Lock()
        self._given.acquire()
        self._done.acquire()
        self._task: Task | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._serve, name="microddsp-kernel", daemon=True).start()

    def _serve(self) -> None:
        while True:
            self._given.acquire()
            assert self._task is not None
            try:
                self._task()
            except BaseException as error:  # it belongs to who waits, whatever it is
                self._error = error
            self._task = None
            self._done.release()

    def start(self, task: Task) -> None:
        self._task = task
        self._given.release()

    def wait(self) -> BaseException | None:
        """What went wrong, if anything did."""
        self._done.acquire()
        error, self._error = self._error, None
        return error


_workers: list[_Worker] = []
_busy = threading.Lock()


def _forget() -> None:
    """A child process inherits the workers without their threads, and perhaps a closed lock."""
    global _busy
    _workers.clear()
    _busy = threading.Lock()


os.register_at_fork(after_in_child=_forget)


def useful(units: int, samples: int) -> int:
    """Threads for `units` that can be computed apart, `samples` in all; `torch.set_num_threads`
    rules."""
    if samples < SMALL:
        return 1
    return max(1, min(units, torch.get_num_threads()))


def spans(units: int, parts: int) -> list[tuple[int, int]]:
    """`units` cut into `parts` that differ by one at most."""
    edges = [units * i // parts for i in range(parts + 1)]
    return list(zip(edges, edges[1:], strict=False))


def side_by_side(tasks: Sequence[Task]) -> None:
    """Run all of them; the caller's thread takes the first. Kernels let go of Python's lock.

    Where somebody else has the threads already, the caller runs all tasks one by one.
    """
    others = tasks[1:]
    if not others or not _busy.acquire(blocking=False):
        for task in tasks:
            task()
        return
    try:
        while len(_workers) < len(others):
            _workers.append(_Worker())
        for worker, task in zip(_workers, others, strict=False):
            worker.start(task)
        try:
            tasks[0]()
        finally:
            errors = [worker.wait() for worker in _workers[: len(others)]]
    finally:
        _busy.release()
    for error in errors:
        if error is not None:
            raise error
