"""Two convolutions one after another, stage by stage: what lies between is never there as a whole.

A stage makes some times of the first convolution, then all tiles of the second that have their
samples now. Those that a later stage still needs move to the front of the memory in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from microddsp.relax_ops.convolution_kernel import Convolution, Rows, loop
from microddsp.relax_ops.copy import emit_copy

if TYPE_CHECKING:
    from tvm import tirx

# Times of the first convolution in one stage: whole tiles of any kind.
STAGE = 16
# Fewer stages save too little memory for the time that they take.
_LEAST_STAGES = 3


def pairs(first: Convolution, second: Convolution) -> bool:
    """Whether `convolution_pair` can make them, and it is worth it."""
    return (
        second.stride == 1
        and not first.mean
        and first.outputs > (_LEAST_STAGES - 1) * STAGE
        and first.lead - _early(first, second) <= STAGE
    )


def _early(first: Convolution, second: Convolution) -> int:
    """By how much (below zero) a stage's first time of `second` is before its own of `first`."""
    return _start(first, second, _second_tile(first, second)[1])


def _second_tile(first: Convolution, second: Convolution) -> tuple[int, int]:
    return second.tile(
        "second tile",
        lambda wide: _fits(wide) and first.lead - _start(first, second, wide) <= STAGE,
    )


def _fits(wide: int) -> bool:
    return STAGE % wide == 0


def _start(first: Convolution, second: Convolution, wide: int) -> int:
    reach = (second.taps - 1) * second.dilation
    return min((first.lead - reach) // wide * wide, 0)


def convolution_pair(first: Convolution, second: Convolution, name: str) -> tirx.PrimFunc:
    """(x, weight, bias, weight2, bias2) to y, all of one block."""
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    shapes = {
        "x": (first.per_group * first.groups, first.length),
        "weight": (first.rows, first.per_group, first.taps),
        "bias": (first.rows,),
        "weight2": (second.rows, second.per_group, second.taps),
        "bias2": (second.rows,),
        "y": second.shape,
    }
    early = _early(first, second)
    stages = -(-first.outputs // STAGE)
    rest = first.outputs - (stages - 1) * STAGE  # times of the last stage
    ahead = first.lead - early  # columns before those that a stage makes
    width = ahead + max(STAGE, rest + first.trail)
    ends = (second.outputs - (stages - 1) * STAGE - early, STAGE)
    with IRBuilder() as builder, T.prim_func(private=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        given = {n: T.arg(n, tirx.decl_buffer(s, "float32", n)) for n, s in shapes.items()}
        between = T.alloc_buffer((first.rows, width), "float32")
        y = given["y"]
        one = {"x": given["x"], "weight": given["weight"], "bias": given["bias"], "y": between}
        two = {"x": between, "weight": given["weight2"], "bias": given["bias2"], "y": y}
        _margins(second, y)
        with T.serial(0, first.rows) as r, loop(first.lead) as i:
            T.buffer_store(between, T.float32(0.0), [r, i - early])
        with T.serial(0, stages) as k:
            last = tirx.EQ(k, stages - 1)
            with T.If(k > 0), T.Then(), T.serial(0, first.rows) as r:
                emit_copy(between, [r, 0], between, [r, STAGE], ahead)
            if first.trail:
                with T.If(last), T.Then(), T.serial(0, first.rows) as r, loop(first.trail) as i:
                    T.buffer_store(between, T.float32(0.0), [r, i + (ahead + rest)])
            tile = first.tile("tile", _fits)
            _times(first, tile, one, k, last, (0, rest, STAGE), k * STAGE, ahead)
            start = tirx.Select(tirx.EQ(k, 0), -early, 0) if early else 0
            tile = _second_tile(first, second)
            _times(second, tile, two, k, last, (start, *ends), 0, k * STAGE + (second.lead + early))
        if second.mean:
            with T.serial(0, second.rows) as r:
                T.buffer_store(y, y[r] / T.float32(second.divisor), [r])
    return builder.get()


def _margins(spec: Convolution, y: tirx.Buffer) -> None:
    """Zeros around the rows of the result."""
    from tvm.script.ir_builder import tirx as T

    for start, count in ((0, spec.lead), (spec.lead + spec.outputs, spec.trail)):
        if count:
            with T.serial(0, spec.rows) as r, loop(count) as i:
                T.buffer_store(y, T.float32(0.0), [r, i + start])


def _times(
    spec: Convolution,
    tile: tuple[int, int],
    buffers: dict[str, Any],
    stage: Any,
    last: Any,
    span: tuple[Any, int, int],
    source: Any,
    target: Any,
) -> None:
    """All rows at the times from span[0] to span[1] in the last stage, to span[2] in the others.

    Time t reads x from `source + t` on and goes to `target + t` in a row of y.
    """
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    high, wide = tile
    rows = spec.rows // spec.groups
    start, rest, whole = span
    tiles = whole // wide
    if rest // wide != tiles:
        tiles = tirx.Select(last, rest // wide, tiles)
    begin = start // wide if isinstance(start, int) else tirx.floordiv(start, wide)
    with loop(spec.groups) as g, loop(rows // high) as j:
        work = Rows(spec, buffers, g, g * rows + j * high, high)
        work.begin_means(tirx.EQ(stage, 0))
        with T.serial(begin, tiles) as m:
            work.tile(source + m * wide, wide, target + m * wide)
        if rest % wide:
            with T.If(last), T.Then():
                done = rest // wide * wide
                work.tile(source + done, rest % wide, target + done)
        work.keep_means()
