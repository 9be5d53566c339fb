"""What is measured: one row of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.training.clock import Run

OURS = "microddsp"


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of training, by us and by others.

    runs: A forward and backward pass each, by name; ours is `microddsp`.
    goal: The fastest other must take so many times as long; None: a figure only.
    times_as_much: A run's time is multiplied by this, for one that does a part of the work.
    threads: That torch may use, by name; one for those not named.
    ours: Which run is compared with the others.
    """

    name: str
    runs: Mapping[str, Run]
    goal: float | None = None
    times_as_much: Mapping[str, float] = field(default_factory=dict)
    threads: Mapping[str, int] = field(default_factory=dict)
    ours: str = OURS
