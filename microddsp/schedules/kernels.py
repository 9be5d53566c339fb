"""Pass: loop schedules for the kernels that are no sample loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import IRModule
from tvm.ir.transform import PassContext
from tvm.s_tir.schedule import SBlockRV

from microddsp.relax_ops.choices import KEY, Answers, Made, key_of, session
from microddsp.schedules.register_tiles import Factors, straightened, tiled, usual

# Calls that are an instruction or two, or none.
CHEAP = {"prim.if_then_else", "tirx.likely", "tirx.fabs", "tirx.sqrt", "tirx.reinterpret"}


@tvm.transform.module_pass(opt_level=0, name="ScheduleKernels")
class ScheduleKernels:
    """Inline element-wise blocks into their users; keep the sums of reductions in registers.

    What is left of a fused kernel is its reductions: no intermediate tensor is written that is
    read only once, no function of the mathematical library is called twice for a value, and no
    `if first` is tested in an inner loop.
    """

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        for name, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc):
                known = _with_key(func)
                if has_blocks(func):
                    mod.update_func(name, _scheduled(known))
                elif not known.same_as(func):
                    mod.update_func(name, known)
        return mod


def _with_key(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with what it is known by, while there is a session of choices."""
    active = session()
    if active is None or KEY in (func.attrs or {}):
        return func
    return func.with_attr(KEY, key_of(Made(func, ()), active.salt))


def _scheduled(func: tirx.PrimFunc) -> tirx.PrimFunc:
    active = session()
    if active is None:
        return straightened(schedule_blocks(s_tir.Schedule(func)).mod["main"])
    key = str(func.attrs[KEY])
    active.blocks[key] = func
    decided = active.schedule(key, func)
    if decided is None:
        active.answers[key] = Answers()
        return straightened(schedule_blocks(s_tir.Schedule(func)).mod["main"])
    active.answers[key] = Answers(decided[1])
    return straightened(decided[0])


def has_blocks(func: tirx.PrimFunc) -> bool:
    """Whether it is what this pass schedules; other functions are loops already."""
    return isinstance(func.body, s_tir.SBlockRealize)


def schedule_blocks(schedule: s_tir.Schedule, factors: Factors = usual) -> s_tir.Schedule:
    """The schedule of a fused kernel; `factors` decides the tiles of its sums."""
    names = [schedule.get(b).name_hint for b in _blocks(schedule)]
    for name in names:
        _inline(schedule, name, schedule.compute_inline, lambda block: [block])
    for name in names:
        _inline(schedule, name, schedule.reverse_compute_inline, schedule.get_producers)
    for name in [schedule.get(b).name_hint for b in _blocks(schedule)]:
        try:
            block = schedule.get_sblock(name)
        except s_tir.ScheduleError:
            continue  # it became part of another
        if _is_dear(schedule, block):
            _beside_its_user(schedule, block)
        schedule = tiled(schedule, block, factors) or _started(schedule, block)
    return schedule


def _inline(
    schedule: s_tir.Schedule,
    name: str,
    step: Callable[[SBlockRV], None],
    copied: Callable[[SBlockRV], list[SBlockRV]],
) -> None:
    """Take a block into another, unless that computes `copied` values again and they are dear."""
    try:
        block = schedule.get_sblock(name)
        if not any(_is_dear(schedule, b) and _is_repeated(schedule, b) for b in copied(block)):
            step(block)
    except (s_tir.ScheduleError, tvm.error.InternalError):
        pass  # it writes an output, reduces, or is gone already


def _is_dear(schedule: s_tir.Schedule, block: SBlockRV) -> bool:
    """Whether it calls a function of the mathematical library."""
    found = []

    def visit(call: tvm.ir.Call) -> None:
        found.append(getattr(call.op, "name", "") not in CHEAP)

    tvm_ffi.structural_walk(schedule.get(block).body, (tvm.ir.Call, visit))
    return any(found)


def _is_repeated(schedule: s_tir.Schedule, block: SBlockRV) -> bool:
    """Whether the users of a block would compute some of its values more than once."""
    made = schedule.get(block)
    uses = 0

    def visit(load: tvm.ir.TensorLoad) -> None:
        nonlocal uses
        uses += turns if load.source.same_as(made.writes[0].source) else 0

    for user in map(schedule.get, schedule.get_consumers(block)):
        turns = _turns(user.iter_vars)
        tvm_ffi.structural_walk(user.body, (tvm.ir.TensorLoad, visit))
    return uses > _turns(made.iter_vars)


def _turns(axes: Sequence[tirx.IterVar]) -> int:
    return math.prod(int(axis.dom.extent) for axis in axes)


def _beside_its_user(schedule: s_tir.Schedule, block: SBlockRV) -> None:
    """Compute a value just before the only block that uses it: it needs no memory then."""
    users = schedule.get_consumers(block)
    turns = [_turns(schedule.get(b).iter_vars) for b in (block, *users)]
    if len(users) != 1 or turns[0] != turns[1]:
        return
    loops = schedule.get_loops(users[0])
    if not loops:  # of one number each
        return
    try:
        schedule.compute_at(block, loops[-1])
    except (s_tir.ScheduleError, tvm.error.InternalError):
        pass  # it writes an output too


def _started(schedule: s_tir.Schedule, block: SBlockRV) -> s_tir.Schedule:
    """The schedule with the first value of a reduction set before its loop."""
    loops, axes = schedule.get_loops(block), schedule.get(block).iter_vars
    kinds = [int(axis.iter_type) for axis in axes]
    if len(loops) == len(kinds) and tirx.IterVar.CommReduce in kinds:
        try:
            schedule.decompose_reduction(block, loops[kinds.index(tirx.IterVar.CommReduce)])
        except s_tir.ScheduleError:
            pass
    return schedule


def _blocks(schedule: s_tir.Schedule) -> list[SBlockRV]:
    return list(schedule.get_child_blocks(schedule.get_sblock("root")))
