"""The Fourier transform of real frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from microddsp.errors import CompileError, SignalError
from microddsp.relax_ops.choices import Made, call_of
from microddsp.relax_ops.fft_plan import LONGEST, SHORTEST, is_fast, plan
from microddsp.relax_ops.registry import RelaxOperator, define, shape_of, signal_type
from microddsp.relax_ops.torch_operator import call

if TYPE_CHECKING:
    from tvm import relax, tirx

    from microddsp.relax_ops.fft_kernel import Complex

_NAME = "rfft"


def rfft(x: Tensor) -> Tensor:
    """Bins 0 to n / 2 of frames (..., n) as (..., n / 2 + 1, 2): real and imaginary parts.

    On devices n is a power of two from 8 to 4096.

    Raises:
        SignalError: x is empty, or not float32 or float64.
    """
    _check(x)
    y: Tensor = call(_rfft, x)
    return y


def _check(x: Tensor) -> None:
    if x.ndim < 1 or not x.shape[-1]:
        raise SignalError(f"{_NAME} takes frames (..., n), got {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64):
        raise SignalError(f"{_NAME} takes float32 or float64, got {x.dtype}")


@torch.library.custom_op("microddsp::rfft", mutates_args=())
def _rfft(x: Tensor) -> Tensor:
    _check(x)
    return torch.view_as_real(torch.fft.rfft(x)).clone(memory_format=torch.contiguous_format)


@_rfft.register_fake
def _(x: Tensor) -> Tensor:
    _check(x)
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2 + 1, 2))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.n = inputs[0].shape[-1]


def _backward(ctx: Any, y_grad: Tensor) -> Tensor:
    return rfft_backward(torch.view_as_complex(y_grad.contiguous()), ctx.n)


def rfft_backward(grad: Tensor, n: int) -> Tensor:
    """Gradient of n samples from that of the complex bins: the sum of each bin's own wave."""
    return torch.fft.ifft(grad, n=n, norm="forward").real


_rfft.register_autograd(_backward, setup_context=_setup_context)


# ---- device


def check_length(name: str, n: int) -> None:
    """Refuse what has no fast transform on a device.

    Raises:
        CompileError: n is no power of two from 8 to 4096.
    """
    if not is_fast(n):
        raise CompileError(
            f"a device transforms {SHORTEST} to {LONGEST} samples, a power of two; got {n}",
            where=f"dsp.{name}",
            hint="take the next power of two as frame length, with zeros around the window",
        )


def _type_rule(args: Sequence[relax.Expr]) -> relax.Type:
    shape = shape_of(_NAME, "x", args[0])
    if not shape:
        raise CompileError("x must be frames (..., n)", where=f"dsp.{_NAME}")
    if str(args[0].ty.dtype) != "float32":
        raise CompileError(f"x must be float32, not {args[0].ty.dtype}", where=f"dsp.{_NAME}")
    check_length(_NAME, shape[-1])
    return signal_type(*shape[:-1], shape[-1] // 2 + 1, 2)


def _kernel(shape: tuple[int, ...]) -> tirx.PrimFunc:
    """(x, tables...) to both parts of each bin; the bins lie where the points were."""
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    from microddsp.relax_ops.fft_kernel import Transform, rows

    made, n = plan(shape[-1]), shape[-1]
    with IRBuilder() as builder, T.prim_func(private=True):
        T.func_name(_NAME)
        T.func_attr({"tirx.noalias": True})
        x = T.arg("x", tirx.decl_buffer(shape, "float32", "x"))
        tables = [
            T.arg(f"w{i}", tirx.decl_buffer(t.shape, "float32", f"w{i}"))
            for i, t in enumerate(made.twiddles(halved=False))
        ]
        y = T.arg("y", tirx.decl_buffer((*shape[:-1], n // 2 + 1, 2), "float32", "y"))
        with rows(shape[:-1]) as row:

            def store(k: Any, value: Complex) -> None:
                for part in (0, 1):
                    T.buffer_store(y, value[part], [*row, k, part])

            Transform(
                made,
                tables,
                lambda inner, start, _: x[(*row, inner + start)],
                y,
                lambda k, part: [*row, k, part],
                store,
                halved=False,
            ).emit()
    return builder.get()


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    from tvm import relax

    shape = shape_of(_NAME, "x", node.args[0])

    def make() -> Made:
        tables = [relax.const(t) for t in plan(shape[-1]).twiddles(halved=False)]
        return Made(_kernel(shape), (node.args[0], *tables))

    return call_of(builder, make, _NAME, node.ty)


define(RelaxOperator(_NAME, ("x",), _type_rule, _legalize))
