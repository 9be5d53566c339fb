"""Copies of stretches of a signal on the device, several numbers at once.

A struct is assigned whole: compilers make load and store multiple of it, which takes a third of the
instructions of a loop and calls no library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvm import tirx

# A function of the generated source that copies as many numbers as its name ends with.
COPY = "microddsp_copy"
# Numbers in one assignment: compilers call a library for longer ones.
_TOGETHER = 16
# More assignments than this are a loop.
_STRAIGHT = 4


def emit_copy(
    target: tirx.Buffer,
    to: Sequence[Any],
    source: tirx.Buffer,
    start: Sequence[Any],
    count: int,
) -> None:
    """`target[to + i] = source[start + i]` for `i` below `count` along the last axis, float32.

    The two stretches must not overlap.
    """
    from tvm.script.ir_builder import tirx as T

    def some(first: Any, numbers: int) -> None:
        there, here = ([*index[:-1], index[-1] + first] for index in (to, start))
        if numbers < 4:
            for i in range(numbers):
                value = source[tuple([*here[:-1], here[-1] + i])]
                T.buffer_store(target, value, [*there[:-1], there[-1] + i])
        else:
            _call(numbers, target, there, source, here)

    whole, left = divmod(count, _TOGETHER)
    if whole > _STRAIGHT:
        with T.serial(0, whole) as m:
            some(m * _TOGETHER, _TOGETHER)
    else:
        for m in range(whole):
            some(m * _TOGETHER, _TOGETHER)
    some(whole * _TOGETHER, left)


def _call(
    count: int, target: tirx.Buffer, to: list[Any], source: tirx.Buffer, start: list[Any]
) -> None:
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    places = [tirx.address_of(tirx.BufferLoad(b, i)) for b, i in ((target, to), (source, start))]
    T.evaluate(tirx.call_extern("void", f"{COPY}{count}", *places))


def copied(call: Any) -> tuple[Any, Any, int] | None:
    """The first elements (loads) of both places, target first, and the numbers that a call of a
    copying function copies; None for any other expression."""
    name = extern_of(call)
    if not name.startswith(COPY):
        return None
    return call.args[1].args[0], call.args[2].args[0], int(name.removeprefix(COPY))


def extern_of(expr: Any, *, pure: bool = False) -> str:
    """The name of the function of the generated source that an expression calls for its effect or
    a pointer, or for nothing but its value (`pure`); "" for any other expression."""
    from tvm.ir import Call, Op, StringImm

    if not isinstance(expr, Call) or not isinstance(expr.op, Op):
        return ""
    wanted = "tirx.call_pure_extern" if pure else "tirx.call_extern"
    if expr.op.name != wanted or not isinstance(expr.args[0], StringImm):
        return ""
    return str(expr.args[0].value)
