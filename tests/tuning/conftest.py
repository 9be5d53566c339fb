"""Small kernels to tune."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from microddsp import dsp
from microddsp.micro.boards import find_board
from microddsp.tuning.measure import Bench, Outcome, Values
from microddsp.tuning.objects import BuiltCandidate, build_all
from microddsp.tuning.task import Candidate, Task, tuning_tasks

RATE_HZ = 8000.0


@pytest.fixture(scope="session")
def loop() -> Task:
    """A sample loop; every candidate of its space is right."""
    pipeline = torch.nn.Sequential(
        dsp.Gain(3.0),
        dsp.Envelope(attack_s=0.002, release_s=0.05, sample_rate_hz=RATE_HZ),
    )
    (task,) = tuning_tasks(pipeline, torch.zeros(1, 8))
    return task


@pytest.fixture
def try_all(tmp_path: Path) -> Iterator[Callable[..., list[Outcome]]]:
    """Builds and measures candidates for a task, as a session does."""
    benches: list[Bench] = []

    def run(task: Task, candidates: list[Candidate], timeout_s: float = 20.0) -> list[Outcome]:
        values = Values.of(task.default, [task.inputs(seed) for seed in range(2)])
        bench = Bench(find_board("mps2-an386"), values, timeout_s=timeout_s)
        benches.append(bench)
        jobs = [(c, tmp_path / str(i)) for i, c in enumerate(candidates)]
        built = build_all(jobs, task.target)
        ready = [
            (c, b) for c, b in zip(candidates, built, strict=True) if isinstance(b, BuiltCandidate)
        ]
        bench.expect({"instructions": 1000.0})
        measured = iter(bench.measure(ready))
        return [Outcome(reason=b) if isinstance(b, str) else next(measured) for b in built]

    yield run
    for bench in benches:
        bench.close()
