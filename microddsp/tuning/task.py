"""What can be tuned: the kernels of a pipeline, each with its space of choices."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm import s_tir, tirx
from tvm.s_tir import meta_schedule as ms

from microddsp.building import Built, build
from microddsp.micro.aot.code import chosen_code, flags_of
from microddsp.micro.aot.kernel import Kernel
from microddsp.micro.aot.kernel_choices import as_stored, narrowed, with_choices
from microddsp.micro.targets import Target
from microddsp.relax_ops.choices import KEY, Answers, Choice, Made, Session, Value, answering
from microddsp.schedules.graph import operator_name
from microddsp.schedules.kernels import has_blocks
from microddsp.tuning.spaces import (
    decisions_of,
    default_schedule,
    function_of,
    space_of,
    tiles_of,
    workload_of,
)

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Candidate:
    """One way to compute a kernel.

    `kernels` are C functions (the last is the entry, others are its helpers), `emit` says who makes
    the code ("c", "obj"), with which `flags` of its own. `choices` are for people. `constants` are
    the values of all parameters that are tables, by their places in the entry; `checked` are the
    written parameters that can be compared with the default's: all if None.
    """

    kernels: tuple[Kernel, ...]
    emit: str = "c"
    flags: tuple[str, ...] = ()
    choices: Mapping[str, object] = field(default_factory=dict)
    constants: Mapping[int, np.ndarray] = field(default_factory=dict)
    checked: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Task:
    """One kernel to tune. `key` is the same in every pipeline that has this kernel; `states` are
    the places of parameters that hold a state, before and after."""

    index: int
    name: str
    key: str
    workload: tirx.PrimFunc
    target: Target
    default: Candidate
    choices: tuple[Choice, ...]
    _make: Callable[[s_tir.Schedule, Mapping[str, Value]], Candidate]
    _states: frozenset[int]

    def space(self) -> ms.SpaceGenerator:
        """All candidates, for MetaSchedule's search."""
        return space_of(self.workload, self.choices)

    def default_schedule(self) -> s_tir.Schedule:
        """The schedule of the default."""
        return default_schedule(self.workload, self.choices)

    def candidate(self, schedule: s_tir.Schedule) -> Candidate:
        """What a schedule of the space stands for.

        Raises:
            CompileError: Its choices cannot be built.
        """
        return self._make(schedule, decisions_of(schedule))

    def inputs(self, seed: int) -> list[np.ndarray]:
        """Arguments of the default kernel."""
        return self.arguments(self.default, seed)

    def arguments(self, candidate: Candidate, seed: int) -> list[np.ndarray]:
        """One array for each parameter of a candidate's entry, outputs and scratch too: signals
        that rise and fall, states of a beginning."""
        chance = np.random.default_rng(seed)
        kernel = candidate.kernels[-1]
        made = []
        for i, p in enumerate((*kernel.parameters, *kernel.scratch)):
            if i in candidate.constants:
                made.append(np.ascontiguousarray(candidate.constants[i]).reshape(-1))
                continue
            dtype = "uint8" if p.dtype == "bool" else p.dtype
            if p.written or i in self._states:
                made.append(np.zeros(p.elements, dtype))
            elif dtype.startswith("float"):
                loud = np.abs(np.sin(np.arange(p.elements) * 0.1))
                made.append((chance.standard_normal(p.elements) * loud).astype(dtype))
            elif p.dtype == "bool":
                made.append(chance.integers(0, 2, p.elements).astype(dtype))
            else:
                most = min(np.iinfo(dtype).max, 4096)
                made.append(chance.integers(0, most, p.elements).astype(dtype))
        return made


def tuning_tasks(
    module: torch.nn.Module,
    example_inputs: torch.Tensor | Sequence[torch.Tensor],
    *,
    target: str | Target = "cortex-m4f",
    **options: Any,
) -> list[Task]:
    """Every kernel of a pipeline that can be computed in more than one way; `options` are those of
    `microddsp.compile`.

    Raises:
        CompileError, ParameterError: As `microddsp.compile` does.
    """
    session = Session(salt_of(target))
    how = bool(options.get("narrow")), str(options.get("emit", "c"))
    built = build(module, example_inputs, target=target, choices=session, **options)
    tasks: list[Task] = []
    done: set[str] = set()
    for kernel in built.program.kernels:
        if kernel.key not in done:
            done.add(kernel.key)
            tasks.append(_task(len(tasks), kernel, built, session, *how))
    return tasks


def salt_of(target: str | Target) -> str:
    """What a key holds of the target."""
    return target if isinstance(target, str) else target.name


@dataclass(frozen=True)
class _Found:
    """A kernel in a built pipeline, and how to make it again."""

    kernel: Kernel
    built: Built
    function: tirx.PrimFunc  # before its schedule
    default: Made
    maker: Callable[[], Made]
    arguments: tuple[Any, ...]
    narrow: bool
    emit: str

    @property
    def blocks(self) -> bool:
        return has_blocks(self.function)

    def constants(self, made: Made) -> dict[int, np.ndarray]:
        """Tables by their places: a kernel's own, or those of the default that it still has."""
        found = {}
        for place, argument in enumerate(made.arguments):
            for known, given in zip(self.default.arguments, self.arguments, strict=True):
                argument = given if argument.same_as(known) else argument
            if isinstance(argument, tvm.ir.GenericConst):
                found[place] = argument.value.numpy()
        return found

    def make(self, schedule: s_tir.Schedule, decided: Mapping[str, Value]) -> Candidate:
        kernel = self.kernel
        with answering(Answers(decided)) as answers:
            made = self.maker()
            if self.blocks:
                made = replace(made, function=function_of(schedule.copy()))
            constants = self.constants(made)
            tables = narrowed(constants) if self.narrow else {}
            again = with_choices(
                made.function,
                kernel.name,
                fma=self.built.target.fma,
                restrict=kernel.restrict,
                tables=tables,
            )
            code = chosen_code(self.emit)
        constants |= {i: table.values for i, table in as_stored(again, tables).items()}
        shared = kernel.shared if len(again.parameters) == len(kernel.parameters) else frozenset()
        return Candidate(
            (replace(again, shared=shared, key=kernel.key),),
            "obj" if code == "llvm" else "c",
            flags_of(code),
            choices={**tiles_of(schedule), **answers.given()},
            constants=constants,
            checked=_checked(again, made.changed),
        )


def _checked(kernel: Kernel, changed: Collection[int]) -> tuple[int, ...] | None:
    """Written parameters but states of another form; None for all."""
    other = {out for out, into in kernel.inplace if into in changed}
    written = [i for i, p in enumerate(kernel.parameters) if p.written]
    return tuple(i for i in written if i not in other) if other else None


def _find(kernel: Kernel, built: Built, session: Session, narrow: bool, emit: str) -> _Found:
    main = built.lowered["main"]
    calls = [
        b.value
        for block in main.body.blocks
        for b in block.bindings
        if operator_name(b.value) == "relax.call_tir"
    ]
    keys = [str((built.lowered[call.args[0]].attrs or {}).get(KEY)) for call in calls]
    call = calls[keys.index(kernel.key)]
    arguments, function = tuple(call.args[1].fields), built.lowered[call.args[0]]
    function = session.blocks.get(kernel.key, function)
    default = session.defaults.get(kernel.key, Made(function, arguments))
    maker = session.makers.get(kernel.key, lambda: default)
    return _Found(kernel, built, function, default, maker, arguments, narrow, emit)


def _task(
    index: int, kernel: Kernel, built: Built, session: Session, narrow: bool, emit: str
) -> Task:
    found = _find(kernel, built, session, narrow, emit)
    choices = tuple(c for c in session.of(kernel.key).asked.values() if len(c.values) > 1)
    workload = workload_of(found.function, kernel.key)
    default = found.make(default_schedule(workload, choices), {})
    call = next(c for c in built.program.calls if c.kernel is kernel)
    return Task(
        index,
        kernel.name.partition("_k")[2].partition("_")[2],
        kernel.key,
        workload,
        built.target,
        default,
        choices,
        found.make,
        frozenset(i for i, place in enumerate(call.arguments) if place.kind == "state"),
    )
