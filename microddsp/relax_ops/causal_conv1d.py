"""Causal convolution over time, with the past in the state: torch's Conv1d as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d

from microddsp.errors import ParameterError
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

if TYPE_CHECKING:
    from tvm import relax, tirx

_NAME = "causal_conv1d"


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """Convolve x (..., Ci, samples) with weight (Co, Ci / groups, K), as torch's conv1d does.

    Output m ends at input sample m * stride, and sees (K-1) * dilation samples of the past: the
    state (..., Ci, (K-1) * dilation), oldest first. Returns (y (..., Co, samples / stride), state).

    Raises:
        SignalError: x or the state has the wrong shape, or samples is no multiple of stride.
        ParameterError: weight, bias, stride, dilation and groups do not fit together.
    """
    _check(x, weight, bias, state, stride, dilation, groups)
    y, new_state = _causal_conv1d(x, weight, bias, state, stride, dilation, groups)
    return y, new_state


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    stride: int,
    dilation: int,
    groups: int,
) -> None:
    for what, value in (("stride", stride), ("dilation", dilation), ("groups", groups)):
        if value < 1:
            raise ParameterError(f"{_NAME}: {what} must be at least 1, got {value}")
    delay_line.check_signal(_NAME, x, multiple_of=stride)
    channels = x.shape[-2]
    if (
        weight.ndim != 3
        or weight.shape[2] < 1
        or weight.shape[1] * groups != channels
        or weight.shape[0] % groups
    ):
        raise ParameterError(
            f"{_NAME} takes weight (Co, {channels}/groups, K) with Co a multiple of groups, "
            f"got {tuple(weight.shape)} with groups={groups}"
        )
    delay_line.check_same_type(_NAME, "weight", x, weight)
    if bias is not None:
        if tuple(bias.shape) != (weight.shape[0],):
            raise ParameterError(
                f"{_NAME} takes a bias ({weight.shape[0]},), got {tuple(bias.shape)}"
            )
        delay_line.check_same_type(_NAME, "bias", x, bias)
    delay_line.check_state(_NAME, x, state, (weight.shape[2] - 1) * dilation)


def _batch(signal: Tensor) -> Tensor:
    return signal.reshape(signal.shape[:-2].numel(), *signal.shape[-2:])


@torch.library.custom_op("microddsp::causal_conv1d", mutates_args=())
def _causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    stride: int,
    dilation: int,
    groups: int,
) -> tuple[Tensor, Tensor]:
    _check(x, weight, bias, state, stride, dilation, groups)
    joined = delay_line.join(state, x)
    y = conv1d(_batch(joined), weight, bias, stride=stride, dilation=dilation, groups=groups)
    return y.reshape(*x.shape[:-2], *y.shape[1:]), delay_line.newest(joined, state.shape[-1])


@_causal_conv1d.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    stride: int,
    dilation: int,
    groups: int,
) -> tuple[Tensor, Tensor]:
    _check(x, weight, bias, state, stride, dilation, groups)
    y = x.new_empty((*x.shape[:-2], weight.shape[0], x.shape[-1] // stride))
    return y, state.new_empty(state.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, state, *ctx.steps = inputs
    ctx.bias_shape = None if bias is None else list(bias.shape)
    ctx.save_for_backward(x, weight, state)


def _backward(ctx: Any, y_grad: Tensor, state_grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, state = ctx.saved_tensors
    stride, dilation, groups = ctx.steps
    joined = delay_line.join(state, x)
    joined_grad, weight_grad, bias_grad = torch.ops.aten.convolution_backward(
        _batch(y_grad),
        _batch(joined),
        weight,
        ctx.bias_shape,
        [stride],
        [0],
        [dilation],
        False,
        [0],
        groups,
        [True, ctx.needs_input_grad[1], ctx.needs_input_grad[2]],
    )
    s_grad, x_grad = delay_line.join_backward(joined_grad.reshape(joined.shape), state_grad)
    return x_grad, weight_grad, bias_grad, s_grad, None, None, None


_causal_conv1d.register_autograd(_backward, setup_context=_setup_context)


# ---- device


def _type_rule(args: Sequence[relax.Expr]) -> relax.Type:
    from tvm import relax

    from microddsp.errors import CompileError

    x, weight, bias, state, stride_arg, dilation_arg, groups_arg = args
    channels, samples = signal_shape(_NAME, x)
    stride = integer(_NAME, "stride", stride_arg, least=1)
    dilation = integer(_NAME, "dilation", dilation_arg, least=1)
    groups = integer(_NAME, "groups", groups_arg, least=1)
    shape = shape_of(_NAME, "weight", weight)
    if len(shape) != 3 or shape[1] * groups != channels or shape[0] % groups:
        raise CompileError(
            f"weight {shape} does not fit {channels} channels in {groups} groups",
            where=f"dsp.{_NAME}",
        )
    expect_shape(_NAME, "weight", weight, shape, dtype="float32")
    expect_shape(_NAME, "bias", bias, shape[:1], dtype="float32")
    expect_shape(_NAME, "state", state, (channels, (shape[2] - 1) * dilation), dtype="float32")
    if samples % stride:
        raise CompileError(
            f"the block of {samples} samples is no multiple of the stride {stride}",
            where=f"dsp.{_NAME}",
            hint="choose another block length",
        )
    return relax.TupleType([signal_type(shape[0], samples // stride), state.ty])


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    from tvm import relax

    x, weight, bias, state = node.args[:4]
    stride, dilation, groups = (int(arg) for arg in node.args[4:])
    joined = delay_line.emit_join(builder, state, x)
    samples = int(x.ty.shape.values[1])
    shape = tuple(int(dim) for dim in weight.ty.shape.values)
    length = int(joined.ty.shape.values[1])
    func = _convolution(shape, length, samples // stride, stride, dilation, groups)
    kernel = builder.add_func(func, _NAME)
    out = signal_type(shape[0], samples // stride)
    y = builder.emit(relax.call_tir(kernel, [joined, weight, bias], out_ty=out))
    return relax.Tuple([y, delay_line.emit_newest(builder, joined, state)])


def _tile(rows: int, columns: int) -> tuple[int, int]:
    """How many channels and times are summed at once: up to four sums, square if it can be."""
    for tile in ((2, 2), (1, 4), (4, 1), (1, 2), (2, 1)):
        if rows % tile[0] == 0 and columns % tile[1] == 0:
            return tile
    return 1, 1


def _convolution(
    shape: tuple[int, ...], length: int, outputs: int, stride: int, dilation: int, groups: int
) -> tirx.PrimFunc:
    """A tile of outputs at once, so that one load of a weight or sample serves several sums."""
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    rows, per_group, taps = shape
    rows_of_group = rows // groups
    high, wide = _tile(rows_of_group, outputs)
    tile = [(r, u) for r in range(high) for u in range(wide)]
    with IRBuilder() as ir, T.prim_func(private=True, s_tir=True):
        T.func_name(_NAME)
        T.func_attr({"tirx.noalias": True})
        joined = T.arg(
            "joined", tirx.decl_buffer((per_group * groups, length), "float32", "joined")
        )
        weight = T.arg("weight", tirx.decl_buffer(shape, "float32", "weight"))
        bias = T.arg("bias", tirx.decl_buffer((rows,), "float32", "bias"))
        y = T.arg("y", tirx.decl_buffer((rows, outputs), "float32", "y"))
        sums = IRBuilder.name("sum", T.alloc_buffer((high * wide,), "float32"))
        with (
            T.serial(0, groups) as g,
            T.serial(0, rows_of_group // high) as j,
            T.serial(0, outputs // wide) as m,
        ):
            IRBuilder.name_many(["g", "j", "m"], [g, j, m])
            first = g * rows_of_group + j * high
            for r, u in tile:
                T.buffer_store(sums, bias[first + r], [r * wide + u])
            with T.serial(0, per_group) as i, T.serial(0, taps) as k:
                IRBuilder.name_many(["i", "k"], [i, k])
                weights = [T.bind(weight[first + r, i, k]) for r in range(high)]
                past = [
                    T.bind(joined[g * per_group + i, (m * wide + u) * stride + k * dilation])
                    for u in range(wide)
                ]
                IRBuilder.name_many([f"w{r}" for r in range(high)], weights)
                IRBuilder.name_many([f"x{u}" for u in range(wide)], past)
                for r, u in tile:
                    at = r * wide + u
                    T.buffer_store(sums, sums[at] + weights[r] * past[u], [at])
            for r, u in tile:
                T.buffer_store(y, sums[r * wide + u], [first + r, m * wide + u])
    return ir.get()


define(
    RelaxOperator(
        _NAME,
        ("x", "weight", "bias", "state", "stride", "dilation", "groups"),
        _type_rule,
        _legalize,
    )
)
