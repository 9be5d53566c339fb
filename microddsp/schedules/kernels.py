"""Pass: loop schedules for the kernels that are no sample loops."""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx
from tvm.ir import IRModule
from tvm.ir.transform import PassContext


@tvm.transform.module_pass(opt_level=0, name="ScheduleKernels")
class ScheduleKernels:
    """Inline element-wise blocks into their users; start reductions before their loop.

    What is left of a fused kernel is its reductions: no intermediate tensor is written that is
    read only once, and no `if first` is tested in an inner loop.
    """

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        for name, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc) and _has_blocks(func):
                mod.update_func(name, _schedule(func))
        return mod


def _has_blocks(func: tirx.PrimFunc) -> bool:
    return isinstance(func.body, s_tir.SBlockRealize)


def _schedule(func: tirx.PrimFunc) -> tirx.PrimFunc:
    schedule = s_tir.Schedule(func)
    names = [schedule.get(b).name_hint for b in _blocks(schedule)]
    for step in (schedule.compute_inline, schedule.reverse_compute_inline):
        for name in names:
            try:
                step(schedule.get_sblock(name))
            except tvm.error.InternalError:
                continue  # writes an output, reduces, or is gone already
            except s_tir.ScheduleError:
                continue
    for block in _blocks(schedule):
        loops = schedule.get_loops(block)
        reduced = [
            loop
            for loop, var in zip(loops, schedule.get(block).iter_vars, strict=False)
            if int(var.iter_type) == tirx.IterVar.CommReduce
        ]
        if reduced and len(loops) == len(schedule.get(block).iter_vars):
            try:
                schedule.decompose_reduction(block, reduced[0])
            except s_tir.ScheduleError:
                continue
    return schedule.mod["main"]


def _blocks(schedule: s_tir.Schedule) -> list[s_tir.schedule.SBlockRV]:
    return list(schedule.get_child_blocks(schedule.get_sblock("root")))
