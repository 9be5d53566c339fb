"""Learn to count from counts alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from microddsp.errors import ParameterError
from microddsp.training.counts import count_loss, find_counter, window_counts
from microddsp.training.loop import train
from microddsp.training.margins import centre, moved_at_random
from microddsp.training.recorders import Row
from microddsp.training.windows import Windows

# Share of the past in the running mean of parameters.
AVERAGE_DECAY = 0.95


@dataclass(frozen=True, slots=True)
class FitResult:
    """What `fit` found: the pipeline, its error on the training set, and how it went.

    `history` has (start, phase, step, loss) rows; `starts` the final score of each start.
    """

    pipeline: torch.nn.Module
    mean_error: float
    history: tuple[tuple[int, str, int, float], ...]
    starts: tuple[float, ...]


def fit(
    starts: torch.nn.Module | Sequence[torch.nn.Module],
    windows: Windows,
    *,
    density_steps: int = 60,
    exact_steps: int = 60,
    learning_rate: float = 0.05,
    batch: int = 16,
    check_every: int = 10,
    gains: tuple[float, float] = (0.8, 1.25),
    margin: float = 0.0,
    seed: int = 0,
    report: Callable[[str], None] | None = None,
) -> FitResult:
    """Train pipelines with an `EventCounter` on counts per window and give the best one.

    Each start first learns with a smooth density of events, which sees further, then straight
    through the exact counter, so that nothing changes when it is compiled. Starts are trained on
    copies and compared on the training windows only: a start that listens to a distractor fails,
    another does not.

    Args:
        starts: One or more pipelines with different start values.
        windows: Signals, known parts and counts.
        density_steps, exact_steps: Optimiser steps of the two phases.
        learning_rate: Of Adam; the exact phase uses 0.6 of it.
        batch: Windows per step.
        check_every: Steps between looks at the exact error; the best parameters seen are kept.
        gains: Windows are heard at random gains in this range, and candidates are judged over
            it too: a threshold that only just fits would fail on the next recording.
        margin: Candidates are judged with the thresholds around theirs, of which those this share
            away weigh 1/e, and theirs are put in the middle of those that fit; each step moves them
            at random by that law. Gains do the same unless the pipeline levels them out. 0: as
            they are.
        seed: Of the choice of windows, gains and moves.
        report: Gets a line of progress per start.

    Raises:
        SignalError: No windows, nothing known, or signals that are not finite.
        MicroddspError: A gradient is not finite; names the parameter. Starts are unchanged.
    """
    windows.check()
    if not 0.0 < gains[0] <= gains[1]:
        raise ParameterError(f"gains must be positive and ordered, got {gains}")
    if not 0.0 <= margin < math.inf:
        raise ParameterError(f"margin is a share that is not negative, got {margin}")
    if batch < 1 or check_every < 1 or density_steps < 0 or exact_steps < 0:
        raise ParameterError("batch and check_every must be positive, steps not negative")
    candidates = [starts] if isinstance(starts, torch.nn.Module) else list(starts)
    if not candidates:
        raise ParameterError("give at least one start")
    history: list[tuple[int, str, int, float]] = []
    scores: list[float] = []
    best: torch.nn.Module | None = None
    for number, start in enumerate(candidates):
        pipeline = copy.deepcopy(start).train()
        trainer = _Trainer(
            pipeline, windows, number, history, batch, check_every, gains, margin, seed
        )
        trainer.phase("density", density_steps, learning_rate)
        pipeline.load_state_dict(trainer.best_state)  # a density that led astray is forgotten
        trainer.phase("exact", exact_steps, 0.6 * learning_rate)
        pipeline.load_state_dict(trainer.best_state)
        if best is None or trainer.best_score < min(scores):
            best = pipeline
        scores.append(trainer.best_score)
        if report:
            report(f"start {number + 1} of {len(candidates)}: mean error {trainer.best_score:.3f}")
    assert best is not None
    return FitResult(
        best.eval(), centre(best.eval(), [windows], 0.0), tuple(history), tuple(scores)
    )


class _Trainer:
    """One start: optimiser steps, and the best parameters seen so far."""

    def __init__(
        self,
        pipeline: torch.nn.Module,
        windows: Windows,
        number: int,
        history: list[tuple[int, str, int, float]],
        batch: int,
        check_every: int,
        gains: tuple[float, float],
        margin: float,
        seed: int,
    ) -> None:
        self.gains, self.margin = gains, margin
        self.pipeline, self.windows, self.number = pipeline, windows, number
        self.history, self.batch, self.check_every = history, batch, check_every
        self.generator = torch.Generator().manual_seed(seed)
        self.average: dict[str, Tensor] = {}
        self.best_score = float("inf")
        self.best_state: dict[str, Tensor] = {}
        self.keep_best()

    def phase(self, name: str, steps: int, learning_rate: float) -> None:
        counter = find_counter(self.pipeline)
        self.average = {}

        def draw(generator: torch.Generator) -> Windows:
            chosen = torch.randperm(len(self.windows), generator=generator)[: self.batch]
            return self.louder(self.windows.select(chosen))

        def objective(pipeline: torch.nn.Module, part: Windows) -> Tensor:
            moved = moved_at_random(counter, len(part), self.margin, self.generator)
            with moved, counter.density() if name == "density" else nullcontext():
                return count_loss(window_counts(pipeline, part), part.counts)

        def after_step(row: Row) -> None:
            self.follow()
            self.history.append((self.number, name, row.step, row.loss))
            if (row.step + 1) % self.check_every == 0 or row.step + 1 == steps:
                self.judge()

        train(
            self.pipeline,
            draw,
            objective,
            steps=steps,
            optimizer=partial(torch.optim.Adam, lr=learning_rate),
            seed=self.generator,
            after_step=after_step,
            read=False,
        )

    def louder(self, part: Windows) -> Windows:
        """The same windows, each at a random gain."""
        low, high = (math.log(gain) for gain in self.gains)
        share = torch.rand(len(part), 1, 1, generator=self.generator)
        gain = torch.exp(low + (high - low) * share)
        return Windows(part.signals * gain, part.known, part.counts)

    def follow(self) -> None:
        """The mean of the last parameters: steps on few windows are noisy, their mean is not."""
        now = self.pipeline.state_dict()
        for name, value in now.items():
            before = self.average.get(name, value)
            self.average[name] = torch.lerp(before, value, 1 - AVERAGE_DECAY).clone()

    def judge(self) -> None:
        """Look at the exact error of the latest parameters and of their mean."""
        self.keep_best()
        latest = copy.deepcopy(self.pipeline.state_dict())
        self.pipeline.load_state_dict(_with_metadata(self.average, latest))
        self.keep_best()
        self.pipeline.load_state_dict(latest)

    def keep_best(self) -> None:
        score = centre(self.pipeline, _as_loud(self.windows, self.gains), self.margin)
        if score < self.best_score or not self.best_state:
            self.best_score = score
            self.best_state = copy.deepcopy(self.pipeline.state_dict())


def _with_metadata(values: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict with the versions of another one."""
    answer = copy.copy(like)
    answer.update(values)
    return answer


def _as_loud(windows: Windows, gains: tuple[float, float]) -> list[Windows]:
    """The windows at gains over the range."""
    low, high = (math.log(gain) for gain in gains)
    levels = [math.exp(low + (high - low) * i / 4) for i in range(5 if high > low else 1)]
    return [Windows(windows.signals * gain, windows.known, windows.counts) for gain in levels]
