"""Reading a stretch of numbers from one of two places, chosen once and not for every number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from microddsp.relax_ops.copy import extern_of

if TYPE_CHECKING:
    from tvm import tirx

# A macro of the generated source: a condition, then the addresses if it holds and if not, of which
# only the one that is taken need be in its buffer.
EITHER = "microddsp_either"

Place = tuple[Any, Sequence[Any]]  # a buffer and the indices of an element


def either(condition: Any, first: Place, second: Place, count: int) -> tirx.Buffer:
    """`count` float32 numbers that are only read: from `first` on if the condition holds, else from
    `second` on."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    places = [tirx.address_of(tirx.BufferLoad(*place)) for place in (first, second)]
    pointer = T.bind(tirx.call_extern("handle", EITHER, condition, *places))
    return T.decl_buffer((count,), "float32", data=pointer)


def chosen_place(expr: Any) -> tuple[Any, Any, Any] | None:
    """The condition and the first elements (loads) of both places, if an expression chooses one."""
    if extern_of(expr) != EITHER:
        return None
    _, condition, first, second = expr.args
    return condition, first.args[0], second.args[0]
