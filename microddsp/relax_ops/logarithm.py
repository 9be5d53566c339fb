"""Logarithms of powers: a polynomial on devices, so that every one of them rounds alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.polynomial import Polynomial
from numpy.polynomial.chebyshev import Chebyshev
from torch import Tensor

from microddsp.errors import CompileError, ParameterError, SignalError
from microddsp.relax_ops.registry import RelaxOperator, define, integer, shape_of, signal_type
from microddsp.relax_ops.torch_operator import call

if TYPE_CHECKING:
    from tvm import relax, tirx

_NAME = "logarithm"
# Terms that give float32 its full precision.
FULL = 9
_LEAST, _MOST = math.sqrt(0.5), math.sqrt(2.0)
_LN2 = math.log(2.0)
# The upper part has zeros at its end: products with whole exponents are exact.
_LN2_HIGH = 0.693359375
_LN2_LOW = _LN2 - _LN2_HIGH


def logarithm(
    x: Tensor, offset: float, amin: float, scale: float, shift: float, terms: int
) -> Tensor:
    """scale * ln(max(x + offset, amin)) + shift, element by element.

    ln(m * 2**e) is e * ln(2) + f + f**2 * p(f) with f = m - 1, m from sqrt(1/2) to sqrt(2), and a
    polynomial p of `terms` coefficients. With `FULL` of them PyTorch takes its own logarithm, which
    is the same to float32's precision; with fewer both take the polynomial, see `largest_error`.

    Raises:
        SignalError: x is neither float32 nor float64.
        ParameterError: amin is not positive, or `terms` not from 1 to FULL.
    """
    _check(x, amin, terms)
    y: Tensor = call(_logarithm, x, offset, amin, scale, shift, terms)
    return y


def _check(x: Tensor, amin: float, terms: int) -> None:
    if x.dtype not in (torch.float32, torch.float64):
        raise SignalError(f"{_NAME} takes float32 or float64, got {x.dtype}")
    if not amin > 0:
        raise ParameterError(f"{_NAME} takes a positive amin, got {amin}")
    if not 1 <= terms <= FULL:
        raise ParameterError(f"{_NAME} takes 1 to {FULL} terms, got {terms}")


@cache
def coefficients(terms: int) -> tuple[float, ...]:
    """Of p, lowest power first: interpolated in Chebyshev's points, nearly the best there is."""

    def wanted(f: np.ndarray) -> np.ndarray:
        # below 1e-4 the quotient cancels, and four terms of its series are exact
        series = -1 / 2 + f * (1 / 3 + f * (-1 / 4 + f / 5))
        safe = np.where(np.abs(f) < 1e-4, 1.0, f)
        return np.where(np.abs(f) < 1e-4, series, (np.log1p(safe) - safe) / safe**2)

    domain = [_LEAST - 1, _MOST - 1]
    fitted = Chebyshev.interpolate(wanted, terms - 1, domain=domain)
    return tuple(float(c) for c in fitted.convert(kind=Polynomial).coef)


@cache
def largest_error(terms: int) -> float:
    """The largest |error| of ln with so many terms, before rounding."""
    f = np.linspace(_LEAST - 1, _MOST - 1, 20001)
    made = f + f**2 * Polynomial(coefficients(terms))(f)
    return float(np.abs(made - np.log1p(f)).max())


def terms_for(error: float) -> int:
    """The fewest terms whose largest error is at most `error`, FULL if none are."""
    return next((n for n in range(1, FULL) if largest_error(n) <= error), FULL)


def _approximate(x: Tensor, terms: int) -> Tensor:
    mantissa, exponent = torch.frexp(x.detach())
    low = mantissa < _LEAST
    exponent = (exponent - low.to(exponent.dtype)).to(x.dtype)
    f = x * torch.exp2(-exponent) - 1.0
    p = torch.zeros_like(f)
    for c in reversed(coefficients(terms)):
        p = p * f + c
    y = exponent * _LN2 + (f + f * f * p)
    # no mantissa: what the exact logarithm gives
    return torch.where(torch.isfinite(x), y, x)


def _plain(x: Tensor, offset: float, amin: float, scale: float, shift: float, terms: int) -> Tensor:
    held = (x + offset if offset else x).clamp(min=amin)
    y = torch.log(held) if terms == FULL else _approximate(held, terms)
    y = y * scale if scale != 1.0 else y
    return y + shift if shift else y


@torch.library.custom_op("microddsp::logarithm", mutates_args=())
def _logarithm(
    x: Tensor, offset: float, amin: float, scale: float, shift: float, terms: int
) -> Tensor:
    _check(x, amin, terms)
    y = _plain(x, offset, amin, scale, shift, terms)
    return y.contiguous()


@_logarithm.register_fake
def _(x: Tensor, offset: float, amin: float, scale: float, shift: float, terms: int) -> Tensor:
    _check(x, amin, terms)
    return x.new_empty(x.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.numbers = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, y_grad: Tensor) -> tuple[Tensor | None, ...]:
    (x,) = ctx.saved_tensors
    # enabled: the second derivative goes the same way
    with torch.enable_grad():
        leaf = x if x.requires_grad else x.detach().requires_grad_()
        y = _plain(leaf, *ctx.numbers)
    (grad,) = torch.autograd.grad(y, leaf, y_grad, create_graph=torch.is_grad_enabled())
    return grad, None, None, None, None, None


_logarithm.register_autograd(_backward, setup_context=_setup_context)


# ---- device


def _type_rule(args: Sequence[relax.Expr]) -> relax.Type:
    x, *_, terms = args
    shape = shape_of(_NAME, "x", x)
    if str(x.ty.dtype) != "float32":
        raise CompileError(f"x must be float32, not {x.ty.dtype}", where=f"dsp.{_NAME}")
    integer(_NAME, "terms", terms, least=1)
    return signal_type(*shape)


def ln(value: Any, terms: int) -> Any:
    """The logarithm of a float32 as bound TIR values; infinity and NaN stay. It means nothing of
    what is not positive and normal."""
    from tvm import tirx

    from microddsp.relax_ops.fft_kernel import bind

    def number(c: float) -> Any:
        return tirx.FloatImm("float32", c)

    def times(a: Any, b: Any, c: Any) -> Any:
        return bind(tirx.Add(tirx.Mul(a, b), c))

    def unsigned(value: int) -> Any:
        return tirx.IntImm("uint32", value)

    # unsigned: of what is no positive number the bits may be any, and must not overflow
    bits = bind(tirx.Cast("uint32", tirx.call_pure_extern("int32", "microddsp_bits", value)))
    # from the bits of sqrt(1/2) on, so that the mantissa lies around 1
    above = bind(bits - unsigned(0x3F3504F3))
    mantissa = tirx.Cast("int32", bits - tirx.bitwise_and(above, unsigned(0xFF800000)))
    f = bind(tirx.call_pure_extern("float32", "microddsp_float", mantissa) - number(1.0))
    above = tirx.Cast("int32", above)
    exponent = bind(tirx.Cast("float32", tirx.shift_right(above, tirx.IntImm("int32", 23))))
    *lower, p = (number(c) for c in coefficients(terms))
    for c in reversed(lower):
        p = times(p, f, c)
    square = bind(f * f)
    rest = times(square, p, bind(exponent * number(_LN2_LOW)))
    y = times(exponent, number(_LN2_HIGH), bind(f + rest))
    return bind(tirx.Select(tirx.LT(bits, unsigned(0x7F800000)), y, value))


def _kernel(
    shape: tuple[int, ...], numbers: tuple[float, float, float, float], terms: int
) -> tirx.PrimFunc:
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    from microddsp.relax_ops.fft_kernel import bind, rows

    offset, amin, scale, shift = (tirx.FloatImm("float32", v) for v in numbers)
    below = torch.tensor(-math.inf, dtype=torch.float64)
    least = tirx.FloatImm("float32", float(_plain(below, *numbers, terms)))
    with IRBuilder() as builder, T.prim_func(private=True):
        T.func_name(_NAME)
        # opaque: it looks element-wise, and FuseTIR joins only what has blocks
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", tirx.decl_buffer(shape, "float32", "x"))
        y = T.arg("y", tirx.decl_buffer(shape, "float32", "y"))
        with rows(shape) as index:
            value = bind(x[tuple(index)] + offset if numbers[0] else x[tuple(index)])
            made = ln(value, terms)
            made = bind(made * scale) if numbers[2] != 1.0 else made
            made = bind(made + shift) if numbers[3] else made
            # NaN is not less
            T.buffer_store(y, tirx.Select(value < amin, least, made), index)
    return builder.get()


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    from tvm import relax

    x, *given, terms = node.args
    offset, amin, scale, shift = (float(number) for number in given)
    kernel = _kernel(shape_of(_NAME, "x", x), (offset, amin, scale, shift), int(terms))
    return relax.call_tir(builder.add_func(kernel, _NAME), [x], out_ty=node.ty)


define(
    RelaxOperator(_NAME, ("x", "offset", "amin", "scale", "shift", "terms"), _type_rule, _legalize)
)
