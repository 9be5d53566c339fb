"""What operators of torch do to single numbers: a table of rules for `scalar_step`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from microddsp.relax_ops.expression import (
    COMPARISONS,
    LOGIC,
    Expr,
    binary,
    constant,
    select,
    unary,
)

aten = torch.ops.aten
Array = Any  # numpy array of Expr, with the shape of the tensor


class NoFormulaError(Exception):
    """The graph does something that is no formula of single numbers."""


def is_truth(value: Expr) -> bool:
    return value.op in COMPARISONS or value.op in LOGIC


def number(value: Expr | float) -> Expr:
    """Truths that take part in arithmetic are 0 and 1."""
    if not isinstance(value, Expr):
        return constant(float(value))
    return unary("to_float", value) if is_truth(value) else value


def _each(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of numbers over arrays that broadcast."""

    def run(*args: Any, **_: Any) -> Any:
        return np.frompyfunc(function, len(args), 1)(*args)

    return run


def _arithmetic(op: str) -> Callable[..., Any]:
    each = _each(lambda a, b: binary(op, number(a), number(b)))

    def run(a: Any, b: Any, *, alpha: float = 1) -> Any:
        return each(a, b if alpha == 1 else _each(lambda v: number(v) * alpha)(b))

    return run


def _divide(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        raise NoFormulaError
    return _arithmetic("div")(a, b)


def _unary(op: str) -> Callable[..., Any]:
    return _each(lambda a: unary(op, number(a)))


def _logic(op: str) -> Callable[..., Any]:
    def one(*values: Expr) -> Expr:
        if not all(isinstance(v, Expr) and is_truth(v) for v in values):
            raise NoFormulaError
        return unary("not", values[0]) if op == "not" else binary(op, *values)

    return _each(one)


def _power(x: Expr, exponent: Any) -> Expr:
    if exponent == 0.5:
        return unary("sqrt", x)
    if exponent not in (1, 2, 3, 4):
        raise NoFormulaError
    value = x
    for _ in range(int(exponent) - 1):
        value = value * x
    return value


def _sigmoid(x: Expr) -> Expr:
    """By the tangent, whose gradient stays finite where an exponential would overflow."""
    return 0.5 + 0.5 * unary("tanh", 0.5 * x)


def _remainder(a: Any, b: Any) -> Expr:
    """Of the sign of b, exact: for 1 what lies above the floor, else by fmod."""
    a, b = number(a), number(b)
    if b.op == "const" and b.value == 1.0:
        return a - unary("floor", a)
    rest = binary("fmod", a, b)
    apart = rest * b < 0.0
    return select(apart, rest + b, rest)


def clipped(x: Expr, low: Expr | float | None, high: Expr | float | None) -> Expr:
    """Within bounds, where they are given. A NaN is neither below nor above, and stays."""
    above = x if high is None else select(x > high, high, x)
    return above if low is None else select(x < low, low, above)


def _clamp(x: Any, low: Any = None, high: Any = None) -> Any:
    return _each(lambda v, a, b: clipped(number(v), a, b))(x, low, high)


def _chosen(condition: Expr, yes: Any, no: Any) -> Expr:
    if not is_truth(condition):
        raise NoFormulaError
    return select(condition, number(yes), number(no))


def _filled(_: Any, value: Any = 0.0, **__: Any) -> Any:
    return _each(lambda v: number(v))(value)


def _sum(x: Array, dims: Sequence[int] | None = None, keepdim: bool = False, **_: Any) -> Any:
    axes = tuple(range(x.ndim)) if not dims else tuple(d % x.ndim for d in dims)
    return np.sum(_each(number)(x), axis=axes, keepdims=keepdim)


def _slice(x: Array, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    index = [slice(None)] * x.ndim
    index[dim] = slice(start, end, step)
    return x[tuple(index)]


def _view(x: Array, shape: Sequence[int]) -> Any:
    return x.reshape([int(n) for n in shape])


def _squeeze(x: Array, dims: Sequence[int] | int) -> Any:
    axes = [d % x.ndim for d in ([dims] if isinstance(dims, int) else dims)]
    return np.squeeze(x, tuple(axis for axis in axes if x.shape[axis] == 1))


def _same(x: Any, *_: Any, **__: Any) -> Any:
    return x


# A step that is a formula of every channel.
RULES: dict[Any, Callable[..., Any]] = {
    aten.add.Tensor: _arithmetic("add"),
    aten.sub.Tensor: _arithmetic("sub"),
    aten.rsub.Scalar: lambda a, b: _arithmetic("sub")(b, a),
    aten.mul.Tensor: _arithmetic("mul"),
    aten.div.Tensor: _divide,
    aten.add.Scalar: _arithmetic("add"),
    aten.sub.Scalar: _arithmetic("sub"),
    aten.mul.Scalar: _arithmetic("mul"),
    aten.div.Scalar: _divide,
    aten.reciprocal.default: _each(lambda a: 1.0 / a),
    aten.fmod.Tensor: _arithmetic("fmod"),
    aten.fmod.Scalar: _arithmetic("fmod"),
    aten.remainder.Tensor: _each(_remainder),
    aten.remainder.Scalar: _each(_remainder),
    aten.maximum.default: _arithmetic("max"),
    aten.minimum.default: _arithmetic("min"),
    aten.relu.default: _each(lambda a: select(binary("le", a, 0.0), 0.0, a)),
    aten.clamp.default: _clamp,
    aten.clamp.Tensor: _clamp,
    aten.neg.default: _unary("neg"),
    aten.abs.default: _unary("abs"),
    aten.sqrt.default: _unary("sqrt"),
    aten.exp.default: _unary("exp"),
    aten.log.default: _unary("log"),
    aten.sin.default: _unary("sin"),
    aten.tan.default: _unary("tan"),
    aten.cos.default: _unary("cos"),
    aten.tanh.default: _unary("tanh"),
    aten.floor.default: _unary("floor"),
    aten.sigmoid.default: _each(_sigmoid),
    aten.pow.Tensor_Scalar: _each(_power),
    aten.where.self: _each(_chosen),
    aten.logical_not.default: _logic("not"),
    aten.bitwise_not.default: _logic("not"),
    aten.logical_and.default: _logic("and"),
    aten.bitwise_and.Tensor: _logic("and"),
    aten.logical_or.default: _logic("or"),
    aten.bitwise_or.Tensor: _logic("or"),
    aten.full.default: _filled,
    aten.full_like.default: _filled,
    aten.scalar_tensor.default: lambda value, **_: _filled(None, value),
    aten.clone.default: _same,
    aten.alias.default: _same,
    aten.expand.default: _same,
    aten.lift_fresh_copy.default: _same,
    aten._to_copy.default: _same,
    **{
        getattr(getattr(aten, op), kind): _arithmetic(op)
        for op in COMPARISONS
        for kind in ("Scalar", "Tensor")
    },
}
# Where all numbers are told apart, values may have any shape.
REARRANGING: dict[Any, Callable[..., Any]] = {
    aten.select.int: lambda x, dim, index: np.take(x, index, axis=dim),
    aten.slice.Tensor: _slice,
    aten.view.default: _view,
    aten.reshape.default: _view,
    aten._unsafe_view.default: _view,
    aten.unsqueeze.default: lambda x, dim: np.expand_dims(x, dim),
    aten.squeeze.dims: _squeeze,
    aten.squeeze.dim: _squeeze,
    aten.permute.default: lambda x, order: np.transpose(x, order),
    aten.cat.default: lambda arrays, dim=0: np.concatenate(arrays, dim),
    aten.sum.dim_IntList: _sum,
    aten.mv.default: lambda a, b: np.dot(_each(number)(a), _each(number)(b)),
    aten.mm.default: lambda a, b: np.dot(_each(number)(a), _each(number)(b)),
    aten.dot.default: lambda a, b: np.dot(_each(number)(a), _each(number)(b)),
    operator.getitem: lambda x, i: x[i],
}
