"""Functions of numbers: those of C's library, and shifts as torch defines them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx
from tvm import relax, te, tirx

from microddsp.frontend.aten.loops import Converter, Value, kind_of, where

_FUNCTIONS = {
    "exp2.default": "exp2f",
    "erfc.default": "erfcf",
    "lgamma.default": "lgammaf",
    "hypot.default": "hypotf",
    "copysign.Tensor": "copysignf",
    "copysign.Scalar": "copysignf",
    "atan2.default": "atan2f",
}
_SHIFTS = {
    "__lshift__.Scalar": "left",
    "__lshift__.Tensor": "left",
    "bitwise_left_shift.Tensor": "left",
    "bitwise_left_shift.Tensor_Scalar": "left",
    "bitwise_left_shift.Scalar_Tensor": "left",
    "__rshift__.Scalar": "right",
    "__rshift__.Tensor": "right",
    "bitwise_right_shift.Tensor": "right",
    "bitwise_right_shift.Tensor_Scalar": "right",
    "bitwise_right_shift.Scalar_Tensor": "right",
}


def _pointwise(name: str, function: Callable[..., Value]) -> Converter:
    """Operands are cast to the result's type and broadcast; numbers stay in the expression."""

    def convert(node: fx.Node, importer: Any) -> Any:
        shape, dtype = kind_of(node.meta["val"])
        builder = importer.block_builder
        given = [importer.env[a] if isinstance(a, fx.Node) else a for a in node.args]
        tensors = [
            builder.emit(relax.op.astype(a, dtype)) if str(a.ty.dtype) != dtype else a
            for a in given
            if isinstance(a, relax.Expr)
        ]

        def compute(*operands: te.Tensor) -> te.Tensor:
            def element(*index: Value) -> Value:
                rest = iter(operands)
                return function(
                    *(
                        _element(next(rest), index)
                        if isinstance(a, relax.Expr)
                        else tirx.const(a, dtype)
                        for a in given
                    )
                )

            return te.compute(shape, element, name=name)

        return builder.emit_te(compute, *tensors, primfunc_name_hint=name)

    return convert


def _element(x: te.Tensor, index: tuple[Value, ...]) -> Value:
    return x(*where(index, [int(size) for size in x.shape]))


def library_call(function: str, *values: Value) -> Value:
    """A function of C's library: `function` is its float32 form, of which others are found."""
    if any(str(value.ty) == "float64" for value in values):
        return tirx.call_pure_extern("float64", function.removesuffix("f"), *values)
    return tirx.call_pure_extern("float32", function, *values)


def _library(function: str) -> Converter:
    def apply(*values: Value) -> Value:
        return library_call(function, *values)

    return _pointwise(function.removesuffix("f"), apply)


def _shift(direction: str) -> Converter:
    """Shifted by its width or more, or by less than nothing, a number has lost all its bits."""

    def apply(x: Value, by: Value) -> Value:
        dtype = str(x.ty)
        bits = int(dtype.removeprefix("u").removeprefix("int"))
        word = "64" if bits == 64 else "32"
        signed = dtype.startswith("int")
        outside = tirx.any(by < 0, by >= bits) if signed else by >= bits
        safe = tirx.Select(outside, tirx.const(bits - 1, dtype), by)
        if direction == "left":
            # of unsigned words: C does not define it for negative numbers
            wide = tirx.Cast(f"uint{word}", x)
            moved = tirx.shift_left(wide, tirx.Cast(f"uint{word}", safe))
            return tirx.Select(outside, tirx.const(0, dtype), tirx.Cast(dtype, moved))
        kind = f"int{word}" if signed else f"uint{word}"
        moved = tirx.Cast(dtype, tirx.shift_right(tirx.Cast(kind, x), tirx.Cast(kind, safe)))
        return moved if signed else tirx.Select(outside, tirx.const(0, dtype), moved)

    return _pointwise(f"shift_{direction}", apply)


ELEMENTWISE: dict[str, Converter] = {
    **{name: _library(function) for name, function in _FUNCTIONS.items()},
    **{name: _shift(direction) for name, direction in _SHIFTS.items()},
}
