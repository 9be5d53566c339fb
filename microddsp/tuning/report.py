"""What a session of tuning came to, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from microddsp.tuning.search import Search


@dataclass(frozen=True, slots=True)
class KernelTuning:
    """What the trials of a kernel came to, those of earlier sessions with them."""

    name: str
    key: str
    default: float
    best: float
    trials: int
    failed: int
    best_number: int
    choices: dict[str, Any]
    ended: str

    @property
    def gain(self) -> float:
        """How many times the default the best one is; 1 where nothing was better."""
        return self.default / self.best if self.best else 1.0


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a session came to: `new_trials` were measured in it, for which a real board's flash was
    written `flashes` times."""

    metric: str
    board: str
    target: str
    kernels: tuple[KernelTuning, ...]
    new_trials: int
    seconds: float
    flashes: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "kernels": [asdict(k) | {"gain": round(k.gain, 4)} for k in self.kernels],
        }


@dataclass(frozen=True, slots=True)
class Progress:
    """Told after each batch."""

    kernel: str
    done: int
    wanted: int
    best: float
    default: float
    seconds: float
    seconds_left: float | None


def progress_of(
    searches: Sequence[Search], now: Search, trials: int, began: float, new: int
) -> Progress:
    done = sum(len(s.trials) for s in searches)
    wanted = sum(len(s.trials) if s.ended else trials for s in searches)
    seconds = time.monotonic() - began
    left = seconds / new * max(wanted - done, 0) if new else None
    return Progress(
        now.task.name, done, wanted, now.best.value or 0.0, now.default.value or 0.0, seconds, left
    )


def tuned(search: Search) -> KernelTuning:
    best, default = search.best, search.default
    assert best.value is not None and default.value is not None
    return KernelTuning(
        search.task.name,
        search.task.key,
        default.value,
        best.value,
        len(search.trials),
        sum(t.value is None for t in search.trials),
        best.number,
        dict(best.choices),
        search.ended,
    )
