"""The one training loop: any loss, any optimiser, checkpoints, a stop before anything breaks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LRScheduler

from microddsp.errors import ParameterError
from microddsp.training.batches import Batch
from microddsp.training.checkpoint import Checkpoint
from microddsp.training.losses import Loss
from microddsp.training.processes import B
from microddsp.training.recorders import Recorder, Row
from microddsp.training.stepper import Objective, OptimizerOf, Stepper

ADAM: OptimizerOf = partial(torch.optim.Adam, lr=0.05)


@dataclass(frozen=True, slots=True)
class Trained:
    """How a training went: one row a step, and whether it stopped before its last step."""

    history: tuple[Row, ...]
    stopped_early: bool

    @property
    def loss(self) -> float:
        """Of the last step; NaN if there was none."""
        return self.history[-1].loss if self.history else math.nan


class EarlyStop:
    """Stops when the loss is `below` a bound, or has not fallen by the share `tolerance` in
    `patience` steps."""

    def __init__(
        self, patience: int | None = None, *, tolerance: float = 0.0, below: float | None = None
    ) -> None:
        self.patience, self.tolerance, self.below = patience, tolerance, below
        self._best, self._since = math.inf, 0

    def __call__(self, row: Row) -> bool:
        if self.below is not None and row.loss < self.below:
            return True
        if row.loss < self._best * (1 - self.tolerance):
            self._best, self._since = row.loss, 0
            return False
        self._since += 1
        return self.patience is not None and self._since >= self.patience


def compare(loss: Loss) -> Objective[Batch]:
    """The objective that compares what a module makes of the signals with the targets."""
    return lambda module, batch: loss(module(batch.signals), batch.targets, batch.known)


def train(
    module: torch.nn.Module,
    draw: Callable[[torch.Generator], B],
    objective: Objective[B],
    *,
    steps: int,
    optimizer: OptimizerOf = ADAM,
    schedule: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
    clip_norm: float | None = 10.0,
    seed: int | torch.Generator = 0,
    stop: Callable[[Row], bool] | None = None,
    after_step: Callable[[Row], None] | None = None,
    checkpoint: Checkpoint | None = None,
    recorders: Sequence[Recorder] = (),
    read: bool = True,
) -> Trained:
    """Change the learned parameters of a module, in place, until its objective is small.

    Args:
        module: Learns in every parameter that requires a gradient.
        draw: Gives the batch of a step, from a generator that `seed` starts; see `batches`.
        objective: The loss of a batch; `compare(losses.l1)` for signals.
        steps: Optimiser steps in all, those before a resume included.
        optimizer: Makes any torch optimiser from the parameters, LBFGS too.
        schedule: Makes a learning-rate schedule from the optimiser.
        clip_norm: Longest gradient; None: as it is.
        seed: Of everything random, dropout too; the caller's own random state is left alone.
        stop: Ends the training early, when it says so of a row; see `EarlyStop`.
        after_step: Called with each row; may look at the module.
        checkpoint: Where training is kept, and whether it goes on from there.
        recorders: Get each row: CSV, TensorBoard, terminal. The first process writes only.
        read: Put the learned values in physical units into every row.

    Raises:
        MicroddspError: A gradient, parameter or loss is not finite; names it. The module then has
            the last parameters whose loss and gradients were finite; a checkpoint has such ones
            only.
        SignalError: Signals of a batch are not finite; the module is kept as above.
        ParameterError: There is nothing to learn, the objective is not one number that depends
            on it, or sample rates of the blocks are at odds.
    """
    if steps < 0:
        raise ParameterError(f"steps must not be negative, got {steps}")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        if not isinstance(seed, torch.Generator):
            torch.manual_seed(seed)
        run = Stepper(module, objective, optimizer, schedule, clip_norm, generator, read)
        if checkpoint is not None and checkpoint.resume and Path(checkpoint.path).exists():
            run.resume(checkpoint.path)
        watching = recorders if run.processes.rank == 0 else ()
        with _opened(watching, run.names, len(run.rows), steps):
            stopped = stop is not None and any([stop(row) for row in run.rows])
            while not stopped and len(run.rows) < steps:
                batch = draw(generator)
                row = run.step(batch)
                for recorder in watching:
                    recorder.write(row)
                if after_step is not None:
                    after_step(row)
                stopped = stop is not None and stop(row)
                done = len(run.rows)
                if checkpoint and (stopped or done == steps or done % checkpoint.every == 0):
                    run.keep(checkpoint.path)
            if run.rows and run.kept is not None:
                run.check(batch)
    return Trained(tuple(run.rows), stopped)


@contextmanager
def _opened(
    recorders: Sequence[Recorder], names: list[str], first: int, steps: int
) -> Iterator[None]:
    try:
        for recorder in recorders:
            recorder.open(names, first, steps)
        yield
    finally:
        for recorder in recorders:
            recorder.close()
