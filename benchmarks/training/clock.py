"""Times on a busy machine: everything takes turns, the fastest run counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Run = Callable[[], object]
# A turn lasts about so long: others get the caches and the cores in between.
TURN_S = 0.02


@dataclass(frozen=True, slots=True)
class Times:
    """Of one run, in ms."""

    fastest: float
    median: float


def take_turns(runs: Mapping[str, Run], seconds: float) -> dict[str, Times]:
    """Each gets about `seconds`, in turns; at least three runs each."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()  # builds kernels, fills caches
    turns = max(3, round(seconds / TURN_S))
    for _ in range(turns):
        for name, run in runs.items():
            if sum(found[name]) >= seconds and len(found[name]) >= 3:
                continue
            run()  # the caches are somebody else's
            begin = time.perf_counter()
            while time.perf_counter() - begin < TURN_S:
                start = time.perf_counter()
                run()
                found[name].append(time.perf_counter() - start)
    return {
        name: Times(min(times) * 1e3, statistics.median(times) * 1e3)
        for name, times in found.items()
    }
