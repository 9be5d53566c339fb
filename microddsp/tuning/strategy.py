"""What proposes candidates: MetaSchedule's evolutionary search, or a small space point by point."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm import s_tir
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.s_tir.meta_schedule.runner import RunnerResult
from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate, PySearchStrategy
from tvm.s_tir.schedule import Instruction, Trace

from microddsp.tuning.cost_model import cost_model
from microddsp.tuning.order import Order, Point
from microddsp.tuning.spaces import tuning_target

if TYPE_CHECKING:
    from microddsp.tuning.task import Task

# A space of so many points is tried point by point, and so is one for which there are trials.
SMALL = 256
# Such a space is tried in batches of its eighth, so that each can learn from those before.
_PARTS, _LEAST = 8, 4
_QUIET = logging.getLogger("microddsp.metaschedule")
_QUIET.setLevel(logging.CRITICAL)


def is_small(task: Task, trials: int) -> bool:
    """Whether all of a kernel's space can be tried in so many trials, or soon."""
    return Decisions(task.default_schedule().trace).size <= max(SMALL, trials)


def begin(
    task: Task, database: ms.database.Database, *, small: bool, seed: int, batch: int
) -> tuple[ms.TuneContext, ms.CostModel]:
    """A search from the start. The context does not keep the cost model: hold it."""
    strategy = (
        EveryPoint(task)
        if small
        else ms.search_strategy.EvolutionarySearch(
            population_size=96, init_min_unmeasured=16, genetic_num_iters=3, eps_greedy=0.1
        )
    )
    with without_intrinsics():
        context = ms.TuneContext(
            tvm.IRModule({"main": task.workload}),
            target=tuning_target(task.target),
            space_generator=task.space(),
            search_strategy=strategy,
            task_name=task.name,
            rand_state=seed % (2**31 - 2) + 1,
            num_threads=1,  # with more the order of proposals is by chance
            logger=_QUIET,
        )
    model, _ = cost_model(seed)
    context.pre_tuning(2**30, batch, context.generate_design_space(), database, model)
    return context, model


class Decisions:
    """What a trace decides, and all that it could decide instead: the points of its space."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._instructions = [i for i in trace.insts if trace.get_decision(i) is not None]
        self._options = [_options(i, trace.get_decision(i)) for i in self._instructions]

    @property
    def counts(self) -> list[int]:
        return [len(options) for options in self._options]

    @property
    def size(self) -> int:
        return math.prod(self.counts)

    def at(self, point: Point) -> Trace:
        """The trace of a point."""
        trace = self.trace
        for instruction, options, place in zip(
            self._instructions, self._options, point, strict=True
        ):
            trace = trace.with_decision(instruction, options[place], remove_postproc=False)
        return trace

    def point(self) -> Point:
        """That of the trace itself."""
        return tuple(
            options.index(_plain(self.trace.get_decision(instruction)))
            for instruction, options in zip(self._instructions, self._options, strict=True)
        )


def _options(instruction: Instruction, decision: Any) -> list[Any]:
    if instruction.kind.name == "SampleCategorical":
        return list(range(len(instruction.attrs[0])))
    assert instruction.kind.name == "SamplePerfectTile", instruction.kind.name
    now, most = _plain(decision), int(instruction.attrs[1])
    extent = math.prod(now)
    fitting = [d for d in range(1, extent + 1) if extent % d == 0]
    return [[extent // d, d] for d in fitting if d <= most or d == now[-1]]


def _plain(decision: Any) -> Any:
    return int(decision) if isinstance(decision, int) else [int(v) for v in decision]


@derived_object
class EveryPoint(PySearchStrategy):
    """Proposes each point of a small space once, the default first."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.decisions = Decisions(task.default_schedule().trace)
        self.order = Order(self.decisions.counts)
        self.batch = 1
        self.proposed: list[Point] = []

    def _initialize_with_tune_context(self, context: ms.TuneContext) -> None:
        """Nothing depends on the context."""

    def pre_tuning(
        self,
        _max_trials: int,
        num_trials_per_iter: int,
        _design_spaces: list[s_tir.Schedule],
        _database: ms.database.Database | None = None,
        _cost_model: ms.CostModel | None = None,
    ) -> None:
        """Only the size of a batch matters."""
        part = max(self.decisions.size // _PARTS, _LEAST)
        self.batch = min(num_trials_per_iter, part)

    def post_tuning(self) -> None:
        """Nothing is held."""

    def generate_measure_candidates(self) -> list[MeasureCandidate] | None:
        """The next points; None if there are no more."""
        first = not self.proposed
        self.proposed = [self.decisions.point()] if first else self.order.take(self.batch)
        made = [self._candidate(self.decisions.at(point)) for point in self.proposed]
        return made or None

    def notify_runner_results(
        self, _candidates: list[MeasureCandidate], results: list[RunnerResult]
    ) -> None:
        """Tell the order what came out."""
        for point, result in zip(self.proposed, results, strict=True):
            seconds = result.run_secs
            value = float(np.mean([float(v) for v in seconds])) if seconds else None
            self.order.tell(point, value)

    def clone(self) -> EveryPoint:
        """Another one, from the start."""
        return EveryPoint(self.task)

    def _candidate(self, trace: Trace) -> MeasureCandidate:
        schedule = s_tir.Schedule(self.task.workload)
        trace.apply_to_schedule(schedule, remove_postproc=False)
        return MeasureCandidate(schedule, ArgInfo.from_entry_func(schedule.mod, False))


@contextmanager
def without_intrinsics() -> Iterator[None]:
    """MetaSchedule imports the tensor intrinsics of GPUs and large processors, which are parsed for
    most of a minute and have no use here."""
    name = "tvm.s_tir.tensor_intrin"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = ModuleType(name)
    try:
        yield
    finally:
        del sys.modules[name]
