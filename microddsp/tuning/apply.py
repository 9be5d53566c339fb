"""Tuning records at work: each kernel of a pipeline is made as its best record says."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.schedule import Trace

from microddsp.errors import RecordWarning
from microddsp.micro.aot.kernel import Kernel
from microddsp.micro.package.model import TunedKernel
from microddsp.micro.targets import Target
from microddsp.relax_ops.choices import Session, Value
from microddsp.tuning.database import Trial, best_trial, compilers_of, known_trials
from microddsp.tuning.spaces import decisions_of, function_of, stand_in, workload_of
from microddsp.tuning.task import salt_of

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Applied:
    """The records of a folder for one target, and which of them were used."""

    folder: Path
    target: Target
    metric: str = "cycles"
    fits: Callable[[Trial], bool] = lambda _trial: True
    trials: list[Trial] = field(init=False)
    compilers: Mapping[str, str] = field(init=False)
    used: dict[str, Trial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """
        Raises:
            RecordError: There are no records there, or they cannot be read.
            BoardError: The target's compiler, on which records depend, is not installed.
        """
        found = known_trials(self.folder)
        self.trials = [t for t in found if self.fits(t)]
        self.compilers = compilers_of(self.target)

    def session(self) -> Session:
        """What to compile in."""
        return Session(salt_of(self.target), self._decide, self._schedule)

    def report(self, kernels: Sequence[Kernel]) -> tuple[TunedKernel, ...]:
        """Which of the kernels follow a record; warns where records were left out."""
        self._warn()
        rows = [
            self._row(kernel, self.used[kernel.key])
            for kernel in kernels
            if kernel.key in self.used
        ]
        for row in rows:
            _LOG.info("kernel %s: %s %s by its record", row.kernel, row.value, row.metric)
        return tuple(rows)

    def _row(self, kernel: Kernel, trial: Trial) -> TunedKernel:
        usual = self._usual(trial)
        value, choices = float(trial.value or 0.0), dict(trial.choices)
        return TunedKernel(kernel.name, kernel.key, trial.metric, value, usual, choices)

    def _warn(self) -> None:
        ours = dict(self.compilers)
        others = {
            ", ".join(f"{k} {v}" for k, v in sorted(t.compilers.items()) if ours.get(k) != v)
            for t in self.trials
            if dict(t.compilers) != ours
        }
        here = ", ".join(f"{k} {v}" for k, v in sorted(ours.items()))
        if others:
            warnings.warn(
                f"tuning records by {' and by '.join(sorted(others))} are left out: here is {here}",
                RecordWarning,
                stacklevel=4,
            )
        elif not self.used:
            warnings.warn(
                "no tuning record fits a kernel of this model", RecordWarning, stacklevel=4
            )

    def _usual(self, trial: Trial) -> float | None:
        """What the kernel without choices measured, where the best one was measured."""
        where = (trial.key, trial.board, trial.metric, dict(trial.compilers), 0)
        same = [
            t.value
            for t in self.trials
            if (t.key, t.board, t.metric, dict(t.compilers), t.number) == where
        ]
        return same[-1] if same else None

    def _best(self, key: str) -> Trial | None:
        trial = best_trial(
            self.trials,
            key,
            cpu=self.target.name,
            compilers=self.compilers,
            metric=self.metric,
        )
        if trial is not None:
            self.used[key] = trial
        return trial if trial is not None and trial.trace is not None else None

    def _decide(self, key: str) -> Mapping[str, Value] | None:
        trial = self._best(key)
        if trial is None:
            return None
        schedule = self._replayed(trial, stand_in(key))
        return None if schedule is None else decisions_of(schedule)

    def _schedule(
        self, key: str, function: tirx.PrimFunc
    ) -> tuple[tirx.PrimFunc, Mapping[str, Value]] | None:
        trial = self._best(key)
        if trial is None:
            return None
        schedule = self._replayed(trial, workload_of(function, key))
        if schedule is None:
            return None
        noted = decisions_of(schedule)
        made = function_of(schedule).without_attr("global_symbol")
        name = (function.attrs or {}).get("global_symbol")
        return made if name is None else made.with_attr("global_symbol", name), noted

    def _replayed(self, trial: Trial, workload: tirx.PrimFunc) -> s_tir.Schedule | None:
        schedule = s_tir.Schedule(workload)
        try:
            Trace.apply_json_to_schedule(trial.trace, schedule)
        except (s_tir.ScheduleError, tvm.error.InternalError, ValueError, TypeError) as error:
            reason = (str(error).strip().splitlines() or ["no reason"])[-1]
            warnings.warn(
                f"a tuning record of {trial.kernel} is left out: {reason}",
                RecordWarning,
                stacklevel=2,
            )
            del self.used[trial.key]
            return None
        return schedule
