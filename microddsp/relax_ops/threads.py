"""Kernels of one call on several threads, as many as torch may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

# Waking a thread costs about as much as a kernel needs for so many samples.
SMALL = 1 << 15


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "microddsp-kernel")


# a child process inherits the pool without its threads
os.register_at_fork(after_in_child=_pool.cache_clear)


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


def side_by_side(tasks: Sequence[Callable[[], None]]) -> None:
    """Run all of them; the caller's thread takes the first. Kernels let go of Python's lock."""
    if len(tasks) == 1:
        tasks[0]()
        return
    others = [_pool(torch.get_num_threads()).submit(task) for task in tasks[1:]]
    try:
        tasks[0]()
    finally:
        for other in others:
            other.result()
