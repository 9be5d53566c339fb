"""Choices of a kernel as a space of MetaSchedule: a schedule that samples and notes them.

A kernel of blocks is its own workload: its tiles are sampled on its loops. For any other kernel a
stand-in of one block is scheduled. What is no transformation of loops (the form of a filter, who
makes the code) is sampled and noted on a block; whoever builds the kernel reads it there.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.mutator import PyMutator
from tvm.s_tir.schedule import LoopRV, SBlockRV, Trace

from microddsp.micro.targets import Target
from microddsp.relax_ops.choices import KEY, Choice, Value
from microddsp.schedules.kernels import has_blocks, schedule_blocks
from microddsp.schedules.register_tiles import straightened

_BLOCK = "template"
_NOTE = "microddsp."


def tuning_target(target: Target) -> tvm.target.Target:
    """What MetaSchedule is told of a processor: only LLVM's kind has a number of cores, which it
    asks for."""
    known = {"mtriple": target.triple} | ({"mcpu": target.cpu} if target.cpu != "native" else {})
    return tvm.target.Target({"kind": "llvm", "num-cores": 1, **known})


def workload_of(function: tirx.PrimFunc, key: str) -> tirx.PrimFunc:
    """What is scheduled for a kernel that is this function before its schedule."""
    if has_blocks(function):
        return function.with_attr("global_symbol", "main").with_attr(KEY, key)
    return stand_in(key)


def stand_in(key: str) -> tirx.PrimFunc:
    """What is scheduled for a kernel that has no loops to transform."""
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        nothing = T.arg("nothing", tirx.decl_buffer((1,), "int32", "nothing"))
        with T.sblock(_BLOCK):
            T.reads()
            T.writes()
            T.buffer_store(nothing, 0, [0])
    return builder.get().with_attr(KEY, key)


def _is_stand_in(workload: tirx.PrimFunc) -> bool:
    return bool(workload.body.block.name_hint == _BLOCK)


def space_of(workload: tirx.PrimFunc, choices: Sequence[Choice]) -> ms.space_generator.ScheduleFn:
    """All kernels that can be made of a workload."""
    mutators = {MutateChoice(): 0.5}
    if not _is_stand_in(workload):
        mutators[ms.mutator.MutateTileSize()] = 0.5
    return ms.space_generator.ScheduleFn(
        lambda schedule: _scheduled(schedule, choices, by_chance=True),
        sch_rules=[],
        postprocs=[],
        mutator_probs=mutators,
    )


def default_schedule(workload: tirx.PrimFunc, choices: Sequence[Choice]) -> s_tir.Schedule:
    """The schedule whose decisions give what is compiled without records."""
    return _scheduled(s_tir.Schedule(workload), choices, by_chance=False)


def _scheduled(
    schedule: s_tir.Schedule, choices: Sequence[Choice], *, by_chance: bool
) -> s_tir.Schedule:
    if not _is_stand_in(schedule.mod["main"]):
        schedule = schedule_blocks(schedule, _any_factors if by_chance else _default_factors)
    block = _noted(schedule)
    for choice in choices:
        count = len(choice.values)
        place = schedule.sample_categorical(
            list(range(count)),
            [1.0 / count] * count,
            None if by_chance else choice.values.index(choice.default),
        )
        schedule.annotate(block, f"{_NOTE}{choice.name}={'|'.join(map(str, choice.values))}", place)
    return schedule


def _noted(schedule: s_tir.Schedule) -> SBlockRV:
    whole = schedule.mod["main"].body.block.name_hint
    return schedule.get_sblock(whole)


def _any_factors(schedule: s_tir.Schedule, loop: LoopRV, _turns: int, most: int) -> list[Any]:
    return _told(schedule, loop, schedule.sample_perfect_tile(loop, 2, most))


def _default_factors(schedule: s_tir.Schedule, loop: LoopRV, turns: int, most: int) -> list[Any]:
    outer = int(schedule.get(loop).extent) // turns
    made = schedule.sample_perfect_tile(loop, 2, most, decision=[outer, turns])
    return _told(schedule, loop, made)


def _told(schedule: s_tir.Schedule, loop: LoopRV, factors: Sequence[Any]) -> list[Any]:
    """Factors, with the inner one in the notes for people to read."""
    name = schedule.get(loop).loop_var.name
    schedule.annotate(_noted(schedule), f"{_NOTE}tile {name}", factors[-1])
    return list(factors)


def tiles_of(schedule: s_tir.Schedule) -> dict[str, int]:
    """Sizes of tiles that are noted, by loops."""
    return {n: int(v) for n, v in decisions_of(schedule).items() if n.startswith("tile ")}


def decisions_of(schedule: s_tir.Schedule) -> dict[str, Value]:
    """What is noted in a schedule, by the names of choices, as text."""
    found: dict[str, Value] = {}
    for note, place in (schedule.mod["main"].body.block.annotations or {}).items():
        name, _, values = str(note).removeprefix(_NOTE).partition("=")
        found[name] = values.split("|")[int(place)] if values else str(place)
    return found


def function_of(schedule: s_tir.Schedule) -> tirx.PrimFunc:
    """The scheduled kernel without notes."""
    block = _noted(schedule)
    for note in list(schedule.mod["main"].body.block.annotations or {}):
        schedule.unannotate(block, str(note))
    return straightened(schedule.mod["main"])


@derived_object
class MutateChoice(PyMutator):
    """Decides one noted choice anew: MetaSchedule's own mutators know tiles and its own notes."""

    def _initialize_with_tune_context(self, context: ms.TuneContext) -> None:
        """Nothing depends on the context."""

    def apply(self, trace: Trace, state: int) -> Trace | None:
        """The trace with another decision; None if there is none to take."""
        chance = random.Random(state)
        open_ = [
            one
            for one in trace.insts
            if one.kind.name == "SampleCategorical" and len(one.inputs or one.attrs[0]) > 1
        ]
        if not open_:
            return None
        picked = chance.choice(open_)
        now = int(trace.get_decision(picked))
        others = [i for i in range(len(picked.attrs[0])) if i != now]
        return trace.with_decision(picked, chance.choice(others), remove_postproc=True)

    def clone(self) -> MutateChoice:
        """Another one."""
        return MutateChoice()
