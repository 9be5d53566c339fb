"""In which order the points of a small space are tried.

A Gaussian process over the decisions tells what a point that was not measured may cost: near
values of a decision cost nearly the same, and the effects of the decisions add up, with some
surprise. The next point is the one with the lowest cost that is still likely (Srinivas et al.,
"Gaussian process optimization in the bandit setting", 2010).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

Point = tuple[int, ...]

# So many standard deviations below the expected cost are still likely.
_HOPE = 1.0
# Values of a decision that are so many apart still tell of each other.
_NEAR = 2.0
# Share of a point's cost that is its own and no sum of effects.
_OWN = 0.2
_NOISE = 1e-4


class Order:
    """All points of a space of decisions with so many values each, the most promising first."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.points = list(itertools.product(*map(range, counts)))
        self._places = {point: i for i, point in enumerate(self.points)}
        self._left = np.ones(len(self.points), bool)
        self._costs: dict[int, float] = {}
        self._like = _likeness(np.array(self.points, "float64").reshape(len(self.points), -1))

    def tell(self, point: Point, value: float | None) -> None:
        """What a point measured; None if it has no figure."""
        place = self._places[point]
        self._left[place] = False
        self._costs[place] = math.inf if value is None else math.log(max(value, 1.0))

    def take(self, count: int) -> list[Point]:
        """The next points, `count` at most: each is given once."""
        places = list(self._costs)
        costs = [self._costs[place] for place in places]
        worst = max((c for c in costs if c < math.inf), default=0.0)
        costs = [min(c, worst) for c in costs]
        taken: list[Point] = []
        while len(taken) < count and self._left.any():
            mean, spread = self._expected(places, costs)
            hope = np.where(self._left, mean - _HOPE * spread, math.inf)
            place = int(np.argmin(hope))
            self._left[place] = False
            taken.append(self.points[place])
            # The others of a batch are chosen as if it came out as expected.
            places.append(place)
            costs.append(float(mean[place]))
        return taken

    def _expected(
        self, places: Sequence[int], costs: Sequence[float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cost of each point, and how far it may be from that."""
        if not places:
            return np.zeros(len(self.points)), np.ones(len(self.points))
        known = np.array(costs)
        usual, size = known.mean(), max(float(known.std()), 0.02)
        near = self._like[:, places]
        among = near[places] + _NOISE * np.eye(len(places))
        weights = np.linalg.solve(among, near.T)
        mean = usual + (known - usual) @ weights
        spread = np.sqrt(np.maximum(1.0 - np.einsum("ij,ji->i", near, weights), 0.0))
        return mean, size * spread


def _likeness(points: np.ndarray) -> np.ndarray:
    """How much the costs of two points have in common, 1 for the same."""
    apart = np.abs(points[:, None] - points[None])
    alike = np.exp(-apart / _NEAR)
    if not alike.shape[-1]:
        return np.ones(alike.shape[:2])
    return (1.0 - _OWN) * alike.mean(-1) + _OWN * alike.prod(-1)
