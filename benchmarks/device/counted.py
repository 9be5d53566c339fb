"""Envelopes and events by plain Python in float64: what jobs that count are held to."""

from __future__ import annotations

import numpy as np

from benchmarks.device.job import Array


def share(time_s: float, rate_hz: float) -> float:
    """What an envelope of this time constant goes of its way in one sample."""
    return float(-np.expm1(-1 / (time_s * rate_hz)))


def follow(x: Array, attack: float, release: float) -> Array:
    """An envelope from zero on."""
    level, levels = 0.0, []
    for value in x:
        level += (attack if value > level else release) * (value - level)
        levels.append(level)
    return np.array(levels)


def counts(levels: Array, high: float, low: float, refractory: int, block: int) -> Array:
    """Events since the start, at the end of every block."""
    armed, ready, count, found = False, 0, 0, []
    for n, level in enumerate(levels):
        if armed and level > high and n >= ready:
            armed, ready, count = False, n + 1 + refractory, count + 1
        elif not armed and level < low:
            armed = True
        found.append(count)
    return np.array(found[block - 1 :: block], dtype="int32").reshape(-1, 1, 1)
