"""The search for one kernel: MetaSchedule proposes, the bench measures, the folder remembers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm import tirx
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.s_tir.meta_schedule.builder import BuilderInput
from tvm.s_tir.meta_schedule.runner import RunnerInput, RunnerResult

from microddsp.errors import RecordError
from microddsp.tuning.builder import LEFT_OUT, CandidateBuilder, CandidateRunner, Measures
from microddsp.tuning.database import NEVER, Records, Trial, best_trial, search_database
from microddsp.tuning.measure import Outcome
from microddsp.tuning.objects import build_all
from microddsp.tuning.source import digest_of
from microddsp.tuning.spaces import tuning_target
from microddsp.tuning.strategy import begin, is_small

if TYPE_CHECKING:
    from tvm.s_tir.schedule import Schedule

    from microddsp.tuning.task import Task

BATCH = 32
# Rounds in which the search finds nothing that was not measured before.
_MOST_IDLE = 6


class Search:
    """All that belongs to one kernel of a session. `ended` says why nothing more is proposed."""

    def __init__(
        self,
        task: Task,
        bench: Measures,
        records: Records,
        *,
        metric: str,
        seed: int,
        compilers: dict[str, str],
        board: str,
        workers: int = 2,
        batch: int = BATCH,
    ) -> None:
        self.task, self.bench, self.records = task, bench, records
        self.metric, self.seed, self.compilers, self.board = metric, seed, compilers, board
        self.batch = batch
        self.ended = ""
        self._known = {t.digest: t for t in records.trials if self._is_mine(t)}
        self._folder = Path(tempfile.mkdtemp(prefix="microddsp-"))
        self._builder = CandidateBuilder(task, self._outcome_of, self._folder, workers)
        self._runner = CandidateRunner(self._builder, bench, metric)
        self._chance = np.random.RandomState(seed).get_state()
        self._context: Any = None
        self._idle = 0
        self._small = False

    @property
    def trials(self) -> list[Trial]:
        """Of this kernel, by these compilers, in this metric: also those of earlier sessions."""
        return list(self._known.values())

    @property
    def default(self) -> Trial:
        return next(t for t in self._known.values() if t.number == 0)

    @property
    def best(self) -> Trial:
        found = best_trial(
            self.trials,
            self.task.key,
            cpu=self.task.target.name,
            compilers=self.compilers,
            metric=self.metric,
            board=self.board,
        )
        assert found is not None  # the default has a value
        return found

    @property
    def since_best(self) -> int:
        """Trials after the best one."""
        return len(self._known) - 1 - self.best.number

    def measure_default(self) -> Trial:
        """Trial 0, from the folder if it is there.

        Raises:
            RecordError: The default itself does not come out right.
        """
        digest = digest_of(self.task.default)
        if digest not in self._known:
            (built,) = build_all([(self.task.default, self._folder / "default")], self.task.target)
            outcome = (
                Outcome(reason=built)
                if isinstance(built, str)
                else self.bench.measure([(self.task.default, built)])[0]
            )
            if outcome.reason:
                raise RecordError(
                    f"the default of kernel {self.task.name} {outcome.reason}",
                    hint="its figures cannot be compared with anything",
                )
            trace = self.task.default_schedule().trace
            self._keep([(digest, self.task.default.choices, outcome, trace)])
        self.bench.expect(self.default.figures)
        return self.default

    def step(self, most: int) -> list[Trial]:
        """Propose and measure a batch; the trials that are new, `most` at most."""
        if self._context is None:
            self._begin(len(self._known) + most)
        with self._own_chance():
            proposed = self._context.generate_measure_candidates()
        if not proposed:
            self.ended = "the space is searched"
            return []
        before = len(self._known)
        results = self._measure(list(proposed), most)
        with self._own_chance():
            self._context.notify_runner_results(list(proposed), results)
        new = self.trials[before:]
        self._idle = 0 if new else self._idle + 1
        if self._idle >= _MOST_IDLE and not self._small:
            self.ended = "nothing new is found"
        return new

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _measure(self, proposed: Sequence[Any], most: int) -> list[RunnerResult]:
        target = tuning_target(self.task.target)
        self._builder.most = most
        built = self._builder.build([BuilderInput(c.sch.mod, target) for c in proposed])
        ready = [
            RunnerInput(b.artifact_path, "cpu", c.args_info)
            for b, c in zip(built, proposed, strict=True)
            if b.artifact_path is not None
        ]
        futures = iter(self._runner.run(ready))
        results = [
            next(futures).result()
            if b.artifact_path is not None
            else RunnerResult(None, b.error_msg)
            for b in built
        ]
        attempts = self._builder.attempts
        self._keep(
            [
                (a.digest, a.choices, self._runner.outcomes[a.digest], c.sch.trace)
                for a, c in zip(attempts, proposed, strict=True)
            ]
        )
        for b in built:
            if b.artifact_path is not None:
                shutil.rmtree(Path(b.artifact_path).parent, ignore_errors=True)
        for candidate, result in zip(proposed, results, strict=True):
            self._commit(candidate.sch.trace, [float(v) for v in result.run_secs or [NEVER]])
        return results

    def _begin(self, trials: int) -> None:
        """A search from the start: with the same seed it proposes the same once more, and what is
        known of that is not measured again. Trials with other seeds are where it begins."""
        task = self.task
        self._small = is_small(task, trials)
        self._database = search_database(self.records.folder, task.key)
        self._workload = self._database.commit_workload(tvm.IRModule({"main": task.workload}))
        for trial in self.trials:
            if trial.seed != self.seed and trial.number and trial.value is not None:
                trace = task_trace(task, trial)
                self._commit(trace, [trial.value])
        with self._own_chance():
            self._context, self._model = begin(
                task, self._database, small=self._small, seed=self.seed, batch=self.batch
            )

    @contextmanager
    def _own_chance(self) -> Iterator[None]:
        """MetaSchedule's models throw numpy's own dice: each kernel has its own here."""
        outside = np.random.get_state()
        np.random.set_state(self._chance)
        try:
            yield
        finally:
            self._chance = np.random.get_state()
            np.random.set_state(outside)

    def _commit(self, trace: Any, values: list[float]) -> None:
        record = ms.database.TuningRecord(
            trace,
            self._workload,
            values,
            tuning_target(self.task.target),
            ArgInfo.from_entry_func(self._workload.mod, False),
        )
        self._database.commit_tuning_record(record)

    def _keep(self, found: Sequence[tuple[str, Any, Outcome, Any]]) -> None:
        new: dict[str, Trial] = {}
        for digest, choices, outcome, trace in found:
            if digest in self._known or digest in new or outcome is LEFT_OUT:
                continue
            new[digest] = Trial(
                key=self.task.key,
                kernel=self.task.name,
                number=len(self._known) + len(new),
                digest=digest,
                metric=self.metric,
                value=None if outcome.reason else outcome.figures[self.metric],
                reason=outcome.reason,
                cpu=self.task.target.name,
                compilers=self.compilers,
                board=self.board,
                seed=self.seed,
                at=datetime.now(UTC).isoformat(timespec="milliseconds"),
                choices={name: _plain(value) for name, value in choices.items()},
                figures=dict(outcome.figures),
                trace=_listed(trace.as_json()),
            )
        if new:
            self.records.append(new.values())
            self._known |= new

    def _is_mine(self, trial: Trial) -> bool:
        return (
            trial.key == self.task.key
            and trial.cpu == self.task.target.name
            and trial.metric == self.metric
            and trial.board == self.board
            and dict(trial.compilers) == self.compilers
        )

    def _outcome_of(self, digest: str) -> Outcome | None:
        trial = self._known.get(digest)
        return Outcome(trial.figures, trial.reason) if trial else None


def schedule_of(task: Task, trial: Trial) -> Schedule:
    """The schedule that a trial's trace makes."""
    from tvm import s_tir
    from tvm.s_tir.schedule import Trace

    schedule = s_tir.Schedule(task.workload)
    Trace.apply_json_to_schedule(trial.trace, schedule)
    return schedule


def task_trace(task: Task, trial: Trial) -> Any:
    """A trial's trace."""
    return schedule_of(task, trial).trace


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else str(value)


def _listed(found: Any) -> Any:
    """What TVM gives as JSON, in Python's own types."""
    if isinstance(found, tirx.IntImm | tirx.FloatImm):
        return found.value
    if isinstance(found, str):
        return str(found)
    if found is None or isinstance(found, bool | int | float):
        return found
    return [_listed(value) for value in found]
