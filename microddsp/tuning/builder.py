"""MetaSchedule's builder and runner for kernels on a microcontroller."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tvm import s_tir
from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.builder import BuilderInput, BuilderResult, PyBuilder
from tvm.s_tir.meta_schedule.runner import PyRunner, PyRunnerFuture, RunnerInput, RunnerResult

from microddsp.errors import MicroddspError
from microddsp.tuning.measure import Outcome
from microddsp.tuning.objects import BuiltCandidate, build_all
from microddsp.tuning.source import digest_of

if TYPE_CHECKING:
    from microddsp.tuning.task import Candidate, Task

LEFT_OUT = Outcome(reason="left out")


class Measures(Protocol):
    """Whoever runs candidates: a bench here, or boards elsewhere."""

    def expect(self, figures: Mapping[str, float]) -> None:
        """Those of the default: what takes much longer may be stopped."""

    def measure(self, jobs: Sequence[tuple[Candidate, BuiltCandidate]]) -> list[Outcome]:
        """One outcome for each."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A candidate on its way; `candidate` is None where its choices make none."""

    digest: str
    candidate: Candidate | None
    outcome: Outcome | None = None

    @property
    def choices(self) -> Mapping[str, object]:
        return self.candidate.choices if self.candidate else {}


@derived_object
class CandidateBuilder(PyBuilder):
    """Builds candidates for one kernel, each in a folder of its own: MetaSchedule removes it.

    What `known` has an outcome for is not built again. `attempts` are those of the last call.
    No more than `most` new ones are built in a call, the others are `LEFT_OUT`.
    """

    def __init__(
        self, task: Task, known: Callable[[str], Outcome | None], folder: Path, workers: int = 2
    ) -> None:
        super().__init__()
        self.task, self.known, self.folder, self.workers = task, known, folder, workers
        self.attempts: list[Attempt] = []
        self.most: int | None = None

    def build(self, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
        """Folders, or reasons."""
        self.attempts = self._within_budget([self._attempt(given.mod) for given in build_inputs])
        folders = [
            Path(tempfile.mkdtemp(prefix="candidate-", dir=self.folder)) for _ in build_inputs
        ]
        new: dict[str, tuple[Candidate, Path]] = {}
        for attempt, folder in zip(self.attempts, folders, strict=True):
            if attempt.candidate is not None and attempt.outcome is None:
                new.setdefault(attempt.digest, (attempt.candidate, folder))
        made = build_all(list(new.values()), self.task.target, self.workers)
        failed = {
            d: Outcome(reason=m) for d, m in zip(new, made, strict=True) if isinstance(m, str)
        }
        self.attempts = [
            replace(attempt, outcome=attempt.outcome or failed.get(attempt.digest))
            for attempt in self.attempts
        ]
        return [
            BuilderResult(None, attempt.outcome.reason)
            if attempt.outcome is not None and attempt.outcome.reason
            else BuilderResult(str(folder / "candidate.o"), None)
            for attempt, folder in zip(self.attempts, folders, strict=True)
        ]

    def _within_budget(self, attempts: list[Attempt]) -> list[Attempt]:
        seen: set[str] = set()
        kept = []
        for attempt in attempts:
            fits = self.most is None or len(seen) < self.most
            if self.known(attempt.digest) or attempt.digest in seen or fits:
                kept.append(attempt)
            else:
                kept.append(replace(attempt, outcome=LEFT_OUT))
            if not self.known(attempt.digest) and fits:
                seen.add(attempt.digest)
        return kept

    def _attempt(self, mod: Any) -> Attempt:
        try:
            candidate = self.task.candidate(s_tir.Schedule(mod))
            digest = digest_of(candidate)
        except MicroddspError as error:
            digest = hashlib.sha256(mod.script().encode()).hexdigest()[:24]
            return Attempt(digest, None, self.known(digest) or Outcome(reason=error.message))
        return Attempt(digest, candidate, self.known(digest))


@derived_object
class _Done(PyRunnerFuture):
    def __init__(self, outcome: Outcome, metric: str) -> None:
        super().__init__()
        self.outcome, self.metric = outcome, metric

    def done(self) -> bool:
        return True

    def result(self) -> RunnerResult:
        if self.outcome.reason:
            return RunnerResult(None, self.outcome.reason)
        return RunnerResult([self.outcome.figures[self.metric]], None)


@derived_object
class CandidateRunner(PyRunner):
    """Measures what a `CandidateBuilder` built last, all at once. `outcomes` are those of the last
    call, also of what was known and of what could not be built."""

    def __init__(self, builder: Any, bench: Measures, metric: str) -> None:
        super().__init__()
        self.builder, self.bench, self.metric = builder, bench, metric
        self.outcomes: dict[str, Outcome] = {}

    def run(self, runner_inputs: list[RunnerInput]) -> list[PyRunnerFuture]:
        """One future for each, all of them done."""
        attempts = {
            attempt.digest: attempt for attempt in self.builder.attempts if not attempt.outcome
        }
        folders = [Path(given.artifact_path).parent for given in runner_inputs]
        built = [BuiltCandidate.load(f) for f in folders if BuiltCandidate.exists(f)]
        jobs = {b.symbol.removeprefix("candidate_"): b for b in built}
        new = [(attempts[digest].candidate, b) for digest, b in jobs.items()]
        self.outcomes = dict(zip(jobs, self.bench.measure(new), strict=True))
        self.outcomes |= {a.digest: a.outcome for a in self.builder.attempts if a.outcome}
        runnable = [a for a in self.builder.attempts if not (a.outcome and a.outcome.reason)]
        return [_Done(self.outcomes[a.digest], self.metric) for a in runnable]
