"""How long a model takes on a board."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from microddsp.errors import BoardError


@dataclass(frozen=True, slots=True)
class Timing:
    """Time of one block, over all blocks given.

    `unit` says what is counted: "instructions" on an emulator, exact and the same on every run
    (instructions are not cycles), "cycles" on a board, "nanoseconds" on this computer. `ticks` are
    those of the board's counter.
    """

    board: str
    blocks: int
    unit: str
    count_min: int
    count_median: float
    count_max: int
    ticks_median: float
    tick_hz: int
    seconds_median: float
    count_per_sample: float

    @property
    def instructions_min(self) -> int:
        return int(_only("instructions", self, self.count_min))

    @property
    def instructions_median(self) -> float:
        return _only("instructions", self, self.count_median)

    @property
    def instructions_max(self) -> int:
        return int(_only("instructions", self, self.count_max))

    @property
    def instructions_per_sample(self) -> float:
        return _only("instructions", self, self.count_per_sample)

    def to_json(self) -> dict[str, Any]:
        """The fields; `count_min` is called `instructions_min` where instructions are counted."""
        return {k.replace("count", self.unit, 1): v for k, v in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class FunctionTime:
    """What one kernel, or the rest of `process`, takes of a block, and its share of the median."""

    name: str
    unit: str
    minimum: int
    median: float
    maximum: int
    share: float

    @property
    def instructions(self) -> float:
        """The median, where instructions are what is counted."""
        return _only("instructions", self, self.median)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _only(unit: str, what: Timing | FunctionTime, value: float) -> float:
    if what.unit != unit:
        raise BoardError(f"this board counts {what.unit}, not {unit}")
    return value
