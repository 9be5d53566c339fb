"""Reading and rewriting Relax expressions in A-normal form."""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import relax


def operator_name(expr: relax.Expr) -> str:
    """The operator's name of a call to a Relax operator, else an empty string."""
    if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
        return str(expr.op.name)
    return ""


def static_shape(expr: relax.Expr) -> tuple[int, ...] | None:
    """The shape of a tensor expression if all its sizes are known."""
    if not isinstance(expr.ty, relax.TensorType) or expr.ty.shape is None:
        return None
    try:
        return tuple(int(size) for size in expr.ty.shape)
    except TypeError:
        return None


def operands(expr: relax.Expr) -> list[relax.Var]:
    """Variables that an A-normal form expression reads."""
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, relax.TupleGetItem):
        return operands(expr.tuple_value)
    if isinstance(expr, relax.Tuple):
        return [var for item in expr.fields for var in operands(item)]
    if isinstance(expr, relax.Call):
        return [var for arg in expr.args for var in operands(arg)]
    return []


def replace(expr: relax.Expr, known: Mapping[relax.Var, relax.Expr]) -> relax.Expr:
    """The expression with variables replaced."""
    if isinstance(expr, relax.Var):
        return known.get(expr, expr)
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(replace(expr.tuple_value, known), expr.index)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([replace(item, known) for item in expr.fields])
    if isinstance(expr, relax.Call):
        args = [replace(arg, known) for arg in expr.args]
        return relax.Call(expr.op, args, expr.attrs, expr.ty_args, expr.span)
    return expr


def builder_without_main(mod: tvm.IRModule) -> relax.BlockBuilder:
    """A block builder that keeps every function but `main`, which is about to be rewritten."""
    rest = {var: func for var, func in mod.functions_items() if var.name_hint != "main"}
    return relax.BlockBuilder(tvm.IRModule(rest))
