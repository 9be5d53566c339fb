"""Power or magnitude of the bins of windowed frames, laid out along time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from microddsp.errors import CompileError, ParameterError, SignalError
from microddsp.relax_ops.choices import Made, call_of
from microddsp.relax_ops.delay_line import check_same_type
from microddsp.relax_ops.fft_plan import plan
from microddsp.relax_ops.registry import (
    RelaxOperator,
    define,
    expect_shape,
    integer,
    shape_of,
    signal_type,
)
from microddsp.relax_ops.rfft import check_length, rfft_backward
from microddsp.relax_ops.torch_operator import call

if TYPE_CHECKING:
    from tvm import relax, te, tirx

    from microddsp.relax_ops.fft_kernel import Complex

_NAME = "spectrum"


def spectrum(x: Tensor, window: Tensor, power: int = 2) -> Tensor:
    """|rfft(x * window)| ** power of frames x (..., frames, channels, n), power 1 or 2.

    Returns (..., channels, n / 2 + 1, frames). On devices n is a power of two from 8 to 4096.

    Raises:
        SignalError: x is no frames of float32 or float64.
        ParameterError: The window does not fit, or the power is neither 1 nor 2.
    """
    _check(x, window, power)
    y: Tensor = call(_spectrum, x, window, power)
    return y


def _check(x: Tensor, window: Tensor, power: int) -> None:
    if x.ndim < 3 or not x.shape[-1]:
        raise SignalError(f"{_NAME} takes frames (..., frames, channels, n), got {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64):
        raise SignalError(f"{_NAME} takes float32 or float64, got {x.dtype}")
    if tuple(window.shape) != (x.shape[-1],):
        raise ParameterError(
            f"{_NAME} takes a window of {x.shape[-1]} numbers, got {tuple(window.shape)}"
        )
    check_same_type(_NAME, "window", x, window)
    if power not in (1, 2):
        raise ParameterError(f"{_NAME} takes power 1 or 2, got {power}")


@torch.library.custom_op("microddsp::spectrum", mutates_args=())
def _spectrum(x: Tensor, window: Tensor, power: int) -> Tensor:
    _check(x, window, power)
    bins = torch.fft.rfft(x * window)
    y = bins.real.square() + bins.imag.square() if power == 2 else bins.abs()
    return y.movedim(-3, -1).clone(memory_format=torch.contiguous_format)


@_spectrum.register_fake
def _(x: Tensor, window: Tensor, power: int) -> Tensor:
    _check(x, window, power)
    *lead, frames, channels, n = x.shape
    return x.new_empty((*lead, channels, n // 2 + 1, frames))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, window, ctx.power = inputs
    ctx.save_for_backward(x, window)


def _backward(ctx: Any, y_grad: Tensor) -> tuple[Tensor | None, ...]:
    x, window = ctx.saved_tensors
    bins = torch.fft.rfft(x * window)
    slope = 2 * bins if ctx.power == 2 else torch.sgn(bins)
    grad = rfft_backward(y_grad.movedim(-1, -3) * slope, x.shape[-1])
    window_grad = None
    if ctx.needs_input_grad[1]:
        window_grad = (grad * x).flatten(0, -2).sum(0)
    return grad * window, window_grad, None


_spectrum.register_autograd(_backward, setup_context=_setup_context)


# ---- device


def _type_rule(args: Sequence[relax.Expr]) -> relax.Type:
    x, window, power_arg = args
    shape = shape_of(_NAME, "x", x)
    if len(shape) != 3:
        raise CompileError(
            f"a device takes frames (frames, channels, n), got the shape {shape}",
            where=f"dsp.{_NAME}",
            hint="compile with an example input without batch dimensions",
        )
    frames, channels, n = shape
    expect_shape(_NAME, "x", x, shape, dtype="float32")
    check_length(_NAME, n)
    expect_shape(_NAME, "window", window, (n,), dtype="float32")
    if integer(_NAME, "power", power_arg, least=1) > 2:
        raise CompileError("power is 1 or 2", where=f"dsp.{_NAME}")
    return signal_type(channels, n // 2 + 1, frames)


def _kernel(shape: tuple[int, ...], past: int, weights: int) -> tirx.PrimFunc:
    """(frames, window, tables...) to the power of each bin; with a past, (past, block, window,
    tables...): one frame lies in both, first the past samples, and nobody writes it down whole.

    The window holds half of each number; of one that is its own mirror image n / 2 + 1 are enough
    (`weights` says how many there are). The points are scratch, which the arena takes; no complex
    bin is written.
    """
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    from microddsp.relax_ops.fft_kernel import Transform, rows

    frames, channels, n = shape
    made = plan(n)
    with IRBuilder() as builder, T.prim_func(private=True):
        T.func_name(_NAME)
        T.func_attr({"tirx.noalias": True})
        if past:
            old = T.arg("past", tirx.decl_buffer((channels, past), "float32", "past"))
        block = (channels, n - past) if past else shape
        x = T.arg("x", tirx.decl_buffer(block, "float32", "x"))
        window = T.arg("window", tirx.decl_buffer((weights,), "float32", "window"))
        tables = [
            T.arg(f"w{i}", tirx.decl_buffer(t.shape, "float32", f"w{i}"))
            for i, t in enumerate(made.twiddles(halved=True))
        ]
        y = T.arg("y", tirx.decl_buffer((channels, n // 2 + 1, frames), "float32", "y"))
        points = T.alloc_buffer((n,), "float32")
        with rows((frames, channels)) as (m, c):

            def sample(inner: Any, start: int, limit: int) -> Any:
                if not past:
                    return x[m, c, inner + start]
                if start + limit <= past:
                    return old[c, inner + start]
                new = x[c, inner + (start - past)]
                if start >= past:
                    return new
                return tirx.if_then_else(inner < past - start, old[c, inner + start], new)

            def weight(inner: Any, start: int) -> Any:
                mirrored = weights < n and start >= n // 2
                return window[inner * -1 + (n - start) if mirrored else inner + start]

            def store(k: Any, value: Complex) -> None:
                T.buffer_store(y, value.re * value.re + value.im * value.im, [c, k, m])

            Transform(
                made,
                tables,
                lambda inner, start, limit: sample(inner, start, limit) * weight(inner, start),
                points,
                lambda k, part: [k * 2 + part],
                store,
                halved=True,
            ).emit()
    return builder.get()


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    return emit(builder, node, (node.args[0],))


def emit(builder: relax.BlockBuilder, node: relax.Call, signal: Sequence[relax.Expr]) -> relax.Expr:
    """A kernel for a call of the operator. `signal` holds its frames, or the past samples
    (channels, past) and the block (channels, n - past) that make its one frame.

    Raises:
        CompileError: The window is not known.
    """
    import tvm
    from tvm import relax

    x, window, power = node.args
    if not isinstance(window, tvm.ir.GenericConst):
        raise CompileError("the window must be known when compiling", where=f"dsp.{_NAME}")
    shape = shape_of(_NAME, "x", x)
    past = shape_of(_NAME, "past", signal[0])[-1] if len(signal) == 2 else 0
    half = (window.value.numpy() * 0.5).astype(np.float32)
    if np.array_equal(half[1:], half[:0:-1]):
        half = half[: len(half) // 2 + 1]

    def make() -> Made:
        tables = [relax.const(t) for t in (half, *plan(shape[-1]).twiddles(halved=True))]
        return Made(_kernel(shape, past, len(half)), (*signal, *tables))

    y = call_of(builder, make, _NAME, node.ty)
    # roots apart: between butterflies, calls of sqrtf would push points out of registers
    return y if int(power) == 2 else builder.emit_te(_roots, builder.emit(y))


def _roots(y: te.Tensor) -> te.Tensor:
    from tvm import te

    return te.compute(y.shape, lambda *i: te.sqrt(y(*i)), name="magnitude")


define(RelaxOperator(_NAME, ("x", "window", "power"), _type_rule, _legalize))
