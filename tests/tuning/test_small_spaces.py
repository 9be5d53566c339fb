"""Small spaces are tried point by point, the most promising first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tvm import s_tir

from microddsp import dsp
from microddsp.errors import CompileError
from microddsp.micro.boards import find_board
from microddsp.tuning.measure import Outcome
from microddsp.tuning.order import Order, Point
from microddsp.tuning.session import tune_tasks
from microddsp.tuning.source import digest_of
from microddsp.tuning.spaces import decisions_of
from microddsp.tuning.strategy import Decisions, is_small
from microddsp.tuning.task import Candidate, tuning_tasks

RATE_HZ = 8000


def _trials_until_best(cost: Callable[[Point], float | None], counts: list[int]) -> int:
    """How many points are tried until the best one was, in batches of four."""
    order = Order(counts)
    points = list(itertools.product(*map(range, counts)))
    values = {p: cost(p) for p in points}
    best = min(v for v in values.values() if v is not None)
    tried: list[Point] = []
    order.tell(points[0], values[points[0]])
    while batch := order.take(4):
        for point in batch:
            order.tell(point, values[point])
        tried += batch
    assert sorted([points[0], *tried]) == points  # each once
    return 2 + [values[p] for p in tried].index(best)


def test_an_order_learns_where_the_best_is() -> None:
    def bowl(p: Point) -> float:
        return 1000.0 * math.exp(0.05 * abs(p[0] - 7) + 0.3 * p[1] + 0.1 * (p[2] != 2))

    def rough(p: Point) -> float | None:
        if p[1] == 1:
            return None  # these fail
        return bowl(p) * (1.0 + 0.02 * math.sin(17.0 * p[0] + 5.0 * p[2]))

    counts = [11, 2, 4]
    assert _trials_until_best(bowl, counts) <= 22  # a quarter of the space
    assert _trials_until_best(rough, counts) <= 33
    assert _trials_until_best(lambda p: 5.0, [3]) == 2
    assert Order([]).take(4) == [()]


def test_the_points_of_tiles_are_those_of_the_space() -> None:
    (task,) = tuning_tasks(torch.nn.Linear(24, 6), torch.zeros(1, 24))
    decisions = Decisions(task.default_schedule().trace)
    counts = decisions.counts
    assert is_small(task, 1) == (decisions.size <= 256)
    assert decisions.at(decisions.point()).as_python() == decisions.trace.as_python()
    made = set()
    for point in itertools.product(*map(range, counts)):
        schedule = s_tir.Schedule(task.workload)
        decisions.at(point).apply_to_schedule(schedule, remove_postproc=False)
        made.add(tuple(sorted(decisions_of(schedule).items())))
    assert len(made) == decisions.size > 8


@pytest.mark.slow
@pytest.mark.qemu
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_half_of_the_trials_come_within_three_percent_of_the_best(
    seed: int, tmp_path: Path, try_all: Callable[..., list[Outcome]]
) -> None:
    pipeline = torch.nn.Sequential(
        dsp.Bandpass(400.0, 1200.0, 4, sample_rate_hz=RATE_HZ),
        dsp.Envelope(0.004, 0.04, sample_rate_hz=RATE_HZ),
    )
    (task,) = tuning_tasks(pipeline, torch.zeros(1, 64))
    task = replace(task, choices=tuple(c for c in task.choices if c.name in ("unroll", "fma")))
    candidates: dict[str, Candidate] = {}
    for values in itertools.product(*(c.values for c in task.choices)):
        named = {c.name: v for c, v in zip(task.choices, values, strict=True)}
        try:
            candidate = task._make(task.default_schedule(), named)
        except CompileError:
            continue
        candidates.setdefault(digest_of(candidate), candidate)
    assert len(candidates) > 12
    best = min(o.figures["cycles"] for o in try_all(task, list(candidates.values())))
    board = find_board("mps2-an386")
    half = len(candidates) // 2
    (kernel,) = tune_tasks([task], records=tmp_path, board=board, trials=half, seed=seed).kernels
    assert kernel.trials == half
    assert kernel.best <= 1.03 * best
