"""Schedule of sums over terms: a tile of results stays in registers while terms are added.

Element by element, a matrix product loads and stores its sum for every term, and loads both factors
for every product. In a tile each factor that is loaded serves a whole row or column of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

# Sums at once: with their factors they fit the registers of a single-precision unit. A row that
# eight does not divide well may fill them all.
WIDE, HIGH, SUMS = 8, 4, 16
# Terms that are added without a jump between them, and products as straight code.
TERMS, STRAIGHT = 4, 64
# The most that may be tried of each.
MOST_WIDE, MOST_HIGH, MOST_TERMS = 16, 8, 16

# Marks blocks whose loops from this one on are unrolled.
_STRAIGHT = "microddsp.straight"

# How to split a loop so that an inner one has so many turns: (schedule, loop, turns, most).
Factors = Callable[[s_tir.Schedule, LoopRV, int, int], list[Any]]


def usual(_schedule: s_tir.Schedule, _loop: LoopRV, turns: int, _most: int) -> list[Any]:
    """As many turns as are proposed."""
    return [None, turns]


def tiled(
    schedule: s_tir.Schedule, block: SBlockRV, factors: Factors = usual
) -> s_tir.Schedule | None:
    """The schedule with a float32 reduction done tile by tile; None where that cannot be.

    `factors` decides how large tiles are. The terms of each sum keep their order: results are those
    of plain loops, bit for bit. What uses the sums one by one is computed before they leave the
    registers.
    """
    found = _loops(schedule, block)
    if found is None:
        return None
    schedule = schedule.copy()  # so that nothing is half done where a step is refused
    results, terms = found
    tile = _tile([_extent(schedule, loop) for loop in results])
    try:
        keep = schedule.cache_write(block, 0, "global")
        keep = _with_user(schedule, keep)
        most = ([1] * len(tile) + [MOST_HIGH, MOST_WIDE])[-len(tile) :]
        split = [
            schedule.split(loop, factors(schedule, loop, size, top) if top > 1 else [None, size])
            for loop, size, top in zip(results, tile, most, strict=True)
        ]
        outer, inner = ([pair[i] for pair in split] for i in (0, 1))
        together = min(TERMS, STRAIGHT // math.prod(tile))
        together = _divisor(_extent(schedule, terms[-1]), together)
        sizes = factors(schedule, terms[-1], together, MOST_TERMS)
        *terms[-1:], straight = schedule.split(terms[-1], sizes)
        schedule.reorder(*outer, *terms, straight, *inner)
        schedule.reverse_compute_at(keep, outer[-1])
        begin = schedule.decompose_reduction(block, terms[0])
    except s_tir.ScheduleError:
        return None
    for loop in (straight, *inner):
        schedule.unroll(loop)
    for part in (begin, keep):
        schedule.annotate(part, _STRAIGHT, len(outer))
    return schedule


def straightened(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with loops unrolled where `tiled` said so.

    How many loops begin and end a tile depends on its size, so this is no step of its schedule,
    which can be repeated with other sizes.
    """
    found: list[tuple[str, int]] = []

    def note(block: s_tir.SBlock) -> None:
        outer = (block.annotations or {}).get(_STRAIGHT)
        if outer is not None:
            found.append((block.name_hint, int(outer)))

    tvm_ffi.structural_walk(func.body, (s_tir.SBlock, note))
    if not found:
        return func
    schedule = s_tir.Schedule(func)
    for name, outer in found:
        block = schedule.get_sblock(name)
        schedule.unannotate(block, _STRAIGHT)
        for loop in schedule.get_loops(block)[outer:]:
            schedule.unroll(loop)
    return schedule.mod["main"]


def _loops(schedule: s_tir.Schedule, block: SBlockRV) -> tuple[list[LoopRV], list[LoopRV]] | None:
    """Those over results and those over terms, if there are no others."""
    node, loops = schedule.get(block), schedule.get_loops(block)
    kinds = [int(var.iter_type) for var in node.iter_vars]
    results = [x for x, k in zip(loops, kinds, strict=False) if k == tirx.IterVar.DataPar]
    terms = [x for x, k in zip(loops, kinds, strict=False) if k == tirx.IterVar.CommReduce]
    ours = len(loops) == len(kinds) == len(results) + len(terms)
    floats = [w.source.dtype for w in node.writes] == ["float32"]
    return (results, terms) if ours and floats and results and terms else None


def _with_user(schedule: s_tir.Schedule, keep: SBlockRV) -> SBlockRV:
    """The block that writes sums to memory, with what is done to each sum in it."""
    for user in schedule.get_consumers(keep):
        try:
            schedule.reverse_compute_inline(user)
        except (s_tir.ScheduleError, tvm.error.InternalError):
            continue
    return keep


def _tile(sizes: Sequence[int]) -> list[int]:
    """How many results of each loop are computed at once: some of the last two loops."""
    wide = _divisor(sizes[-1], WIDE)
    if 2 * wide < min(WIDE, sizes[-1]):
        wide = max(wide, _divisor(sizes[-1], SUMS))
    high = _divisor(sizes[-2], min(HIGH, SUMS // wide)) if len(sizes) > 1 else 1
    return ([1] * len(sizes) + [high, wide])[-len(sizes) :]


def _divisor(number: int, most: int) -> int:
    """The largest divisor up to `most`."""
    return next(d for d in range(max(most, 1), 0, -1) if number % d == 0)


def _extent(schedule: s_tir.Schedule, loop: LoopRV) -> int:
    return int(schedule.get(loop).extent)
