"""Another sample rate by a rational factor: a polyphase filter that computes only what is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, conv_transpose1d
from torch.nn.grad import conv1d_weight

from microddsp.errors import CompileError, ParameterError
from microddsp.relax_ops import delay_line
from microddsp.relax_ops.registry import (
    RelaxOperator,
    define,
    expect_shape,
    integer,
    shape_of,
    signal_shape,
    signal_type,
)
from microddsp.relax_ops.torch_operator import call

if TYPE_CHECKING:
    from tvm import relax, tirx


def resample(x: Tensor, taps: Tensor, state: Tensor, up: int, down: int) -> tuple[Tensor, Tensor]:
    """Filter x between its samples, then keep every `down`-th of `up` times as many.

    y[m] = sum over k of taps[k up + p] x[q - k], where m down = q up + p: what stuffing up - 1
    zeros, filtering by `taps` and decimating would give.

    Args:
        x: (..., channels, samples), samples a multiple of `down`.
        taps: (count,), a multiple of `up` of them.
        state: (..., channels, count / up - 1), the past, oldest first.
        up, down: Without a common divisor.

    Returns:
        y (..., channels, samples * up / down) and the state after the last sample.

    Raises:
        SignalError: Shapes or types that do not fit together.
        ParameterError: up, down or the number of taps.
    """
    _check(x, taps, state, up, down)
    y, following = call(_resample, x, taps, state, up, down)
    return y, following


def _check(x: Tensor, taps: Tensor, state: Tensor, up: int, down: int) -> None:
    if up < 1 or down < 1 or math.gcd(up, down) != 1:
        raise ParameterError(f"resample takes up/down in lowest terms, got {up}/{down}")
    if taps.ndim != 1 or taps.shape[0] == 0 or taps.shape[0] % up:
        raise ParameterError(
            f"resample takes a multiple of {up} taps, got the shape {tuple(taps.shape)}"
        )
    delay_line.check_signal("resample", x, multiple_of=down)
    delay_line.check_state("resample", x, state, taps.shape[0] // up - 1)
    delay_line.check_same_type("resample", "taps", x, taps)


def _phases(up: int, down: int) -> list[tuple[int, int]]:
    """For each of `up` successive outputs: the newest input it sees, and its first tap."""
    return [divmod(j * down, up) for j in range(up)]


def _part(joined: Tensor, first: int, length: int, outputs: int, down: int) -> Tensor:
    """What one phase convolves, one row per channel."""
    part = joined.narrow(-1, first, (outputs - 1) * down + length)
    return part.reshape(-1, 1, part.shape[-1])


@torch.library.custom_op("microddsp::resample", mutates_args=())
def _resample(x: Tensor, taps: Tensor, state: Tensor, up: int, down: int) -> tuple[Tensor, Tensor]:
    _check(x, taps, state, up, down)
    joined = delay_line.join(state, x)
    outputs, length = x.shape[-1] // down, taps.shape[0] // up
    phases = []
    for first, phase in _phases(up, down):
        kernel = taps[phase::up].flip(-1).reshape(1, 1, -1)
        part = _part(joined, first, length, outputs, down)
        phases.append(conv1d(part, kernel, stride=down).reshape(*x.shape[:-1], outputs))
    return torch.stack(phases, -1).flatten(-2), delay_line.newest(joined, length - 1)


@_resample.register_fake
def _(x: Tensor, taps: Tensor, state: Tensor, up: int, down: int) -> tuple[Tensor, Tensor]:
    _check(x, taps, state, up, down)
    return (
        x.new_empty((*x.shape[:-1], x.shape[-1] // down * up)),
        state.new_empty(state.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, taps, state, ctx.up, ctx.down = inputs
    ctx.save_for_backward(x, taps, state)


def _backward(ctx: Any, y_grad: Tensor, state_grad: Tensor) -> tuple[Tensor | None, ...]:
    x, taps, state = ctx.saved_tensors
    up, down = ctx.up, ctx.down
    outputs, length = x.shape[-1] // down, taps.shape[0] // up
    joined = delay_line.join(state, x)
    each = y_grad.unflatten(-1, (outputs, up)).unbind(-1)
    joined_grad = torch.zeros_like(joined)
    taps_grads = []
    for rows, (first, phase) in zip(each, _phases(up, down), strict=True):
        rows = rows.reshape(-1, 1, outputs)
        kernel = taps[phase::up].flip(-1).reshape(1, 1, -1)
        spread = conv_transpose1d(rows, kernel, stride=down)
        spread = spread.reshape(*joined.shape[:-1], spread.shape[-1])
        after = joined.shape[-1] - first - spread.shape[-1]
        joined_grad = joined_grad + torch.nn.functional.pad(spread, (first, after))
        part = _part(joined, first, length, outputs, down)
        taps_grads.append(
            conv1d_weight(part, list(kernel.shape), rows, stride=down).flip(-1).reshape(-1)
        )
    order = sorted(range(up), key=[phase for _, phase in _phases(up, down)].__getitem__)
    taps_grad = torch.stack([taps_grads[j] for j in order], -1).flatten()
    s_grad, x_grad = delay_line.join_backward(joined_grad, state_grad)
    return x_grad, taps_grad, s_grad, None, None


_resample.register_autograd(_backward, setup_context=_setup_context)


# ---- device


def _type_rule(args: Sequence[relax.Expr]) -> relax.Type:
    from tvm import relax

    x, taps, state, up_arg, down_arg = args
    channels, samples = signal_shape("resample", x)
    up = integer("resample", "up", up_arg, least=1)
    down = integer("resample", "down", down_arg, least=1)
    (count,) = expect_shape(
        "resample", "taps", taps, shape_of("resample", "taps", taps)[:1], dtype="float32"
    )
    expect_shape("resample", "state", state, (channels, count // up - 1), dtype="float32")
    if samples % down:
        raise CompileError(
            f"the block of {samples} samples is no multiple of {down}",
            where="dsp.resample",
            hint="choose another block length",
        )
    return relax.TupleType([signal_type(channels, samples // down * up), state.ty])


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    from tvm import relax

    x, taps, state, up, down = node.args
    channels, samples = (int(dim) for dim in x.ty.shape.values)
    joined = delay_line.emit_join(builder, state, x)
    outputs = samples // int(down)
    kernel = _kernel(channels, outputs, int(taps.ty.shape.values[0]), int(up), int(down))
    y = builder.emit(
        relax.call_tir(
            builder.add_func(kernel, "resample"),
            [joined, taps],
            out_ty=signal_type(channels, outputs * int(up)),
        )
    )
    return relax.Tuple([y, delay_line.emit_newest(builder, joined, state)])


def _kernel(channels: int, outputs: int, count: int, up: int, down: int) -> tirx.PrimFunc:
    """(joined, taps) to y: a dot product for each output, the phases side by side."""
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    length = count // up
    with IRBuilder() as builder, T.prim_func(private=True):
        T.func_name("resample")
        T.func_attr({"tirx.noalias": True})
        total = length - 1 + outputs * down
        joined = T.arg("joined", tirx.decl_buffer((channels, total), "float32", "joined"))
        taps = T.arg("taps", tirx.decl_buffer((count,), "float32", "taps"))
        y = T.arg("y", tirx.decl_buffer((channels, outputs * up), "float32", "y"))
        sums = T.alloc_buffer((up,), "float32")
        with T.serial(0, channels) as c, T.serial(0, outputs) as r:
            for j in range(up):
                T.buffer_store(sums, T.float32(0.0), [j])
            with T.serial(0, length) as k:
                for j, (first, phase) in enumerate(_phases(up, down)):
                    heard = joined[c, r * down + (length - 1 + first) - k]
                    T.buffer_store(sums, sums[j] + taps[k * up + phase] * heard, [j])
            for j in range(up):
                T.buffer_store(y, sums[j], [c, r * up + j])
    return builder.get()


define(RelaxOperator("resample", ("x", "taps", "state", "up", "down"), _type_rule, _legalize))
