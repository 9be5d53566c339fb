"""Scalar expressions of a step as TIR, one statement per shared value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from microddsp.relax_ops.expression import Expr, in_order

# A call that is only its argument, see `opaque`.
OPAQUE = "microddsp_opaque"

Value = Any  # a TIR expression; tvm has no types


def float32(value: float) -> Value:
    return tirx.FloatImm("float32", value)


def _extern(name: str) -> Callable[..., Value]:
    return lambda *args: tirx.call_pure_extern("float32", name, *args)


_UNARY: dict[str, Callable[[Value], Value]] = {
    "neg": _extern("-"),
    "abs": _extern("fabsf"),
    "sqrt": _extern("sqrtf"),
    "exp": _extern("expf"),
    "log": _extern("logf"),
    "sin": _extern("sinf"),
    "cos": _extern("cosf"),
    "tan": _extern("tanf"),
    "tanh": _extern("tanhf"),
    "floor": _extern("floorf"),
    "not": tirx.Not,
    # for values that fit an int32, which no FPU rounds faster
    "trunc": lambda a: tirx.Cast("float32", tirx.Cast("int32", a)),
    "to_float": lambda a: tirx.Cast("float32", a),
}

# Built as plain nodes: the overloaded operators would fold and reorder floats.
_BINARY: dict[str, Callable[[Value, Value], Value]] = {
    "add": tirx.Add,
    "sub": tirx.Sub,
    "mul": tirx.Mul,
    "div": tirx.Div,
    "lt": tirx.LT,
    "gt": tirx.GT,
    "le": tirx.LE,
    "ge": tirx.GE,
    "eq": tirx.EQ,
    "ne": tirx.NE,
    "and": tirx.And,
    "or": tirx.Or,
    "fmod": _extern("fmodf"),
    "max": _extern("microddsp_max"),
    "min": _extern("microddsp_min"),
}


def count_uses(roots: Sequence[Expr]) -> dict[int, int]:
    """How often each expression below `roots` is an operand, by id; a root counts twice."""
    uses: dict[int, int] = {id(root): 2 for root in roots}
    for expr in in_order(roots):
        for arg in expr.args:
            uses[id(arg)] = uses.get(id(arg), 0) + 1
    return uses


def emit(roots: Sequence[Expr], values: dict[int, Value], uses: dict[int, int]) -> list[Value]:
    """Emit `roots` into the current TIR builder; `values` maps leaves (by id) to TIR values.

    A value used twice is bound to a local; one used once stays inside its user, so that a
    product can still meet its sum in a fused multiply-add. Roots are always bound: states are
    stored after all of them are read.
    """
    for expr in in_order(roots):
        if id(expr) in values:
            continue
        value = _build(expr, values)
        if uses[id(expr)] > 1 and expr.args:
            value = T.bind(opaque(value))
        values[id(expr)] = value
    return [values[id(root)] for root in roots]


def opaque(value: Value) -> Value:
    """TVM's passes put bound values back into every use to simplify them, which takes time
    exponential in the number of selects one after another. What they take for a call with effects
    stays alone; the C generator's rewrites take the call away."""
    if str(value.ty) != "float32":
        return value
    return tirx.call_extern("float32", OPAQUE, value)


def _build(expr: Expr, values: dict[int, Value]) -> Value:
    args = [values[id(arg)] for arg in expr.args]
    if expr.op == "const":
        return float32(expr.value)
    if expr.op == "select":
        return tirx.Select(*args)
    if expr.op in _UNARY:
        return _UNARY[expr.op](*args)
    return _BINARY[expr.op](*args)
