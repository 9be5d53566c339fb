"""Causal convolution over time, with the past in the state: torch's Conv1d as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d

from microddsp.errors import ParameterError
from microddsp.relax_ops import delay_line
from microddsp.relax_ops.choices import Made, call_of
from microddsp.relax_ops.convolution_kernel import Convolution, convolution_kernel
from microddsp.relax_ops.origins import units_of_call
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
    from tvm import relax

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
    y, new_state = call(_causal_conv1d, x, weight, bias, state, stride, dilation, groups)
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
    return emit(builder, node)


def emit(builder: relax.BlockBuilder, node: relax.Call, *, relu: bool = False) -> relax.Expr:
    """The kernels of one call, with a rectifier at no cost; a tuple of signal and new state."""
    from tvm import relax

    x, weight, bias, state = node.args[:4]
    stride, dilation, groups = (int(arg) for arg in node.args[4:])
    joined = delay_line.emit_join(builder, state, x)
    rows, per_group, taps = (int(dim) for dim in weight.ty.shape.values)
    length = int(joined.ty.shape.values[1])
    spec = Convolution(rows, per_group, taps, length, stride, dilation, groups, relu)

    def make() -> Made:
        return Made(convolution_kernel(spec, _NAME), (joined, weight, bias))

    out = relax.TensorType(spec.shape, "float32")
    y = builder.emit(call_of(builder, make, _NAME, out, units_of_call(node)))
    return relax.Tuple([y, delay_line.emit_newest(builder, joined, state)])


define(
    RelaxOperator(
        _NAME,
        ("x", "weight", "bias", "state", "stride", "dilation", "groups"),
        _type_rule,
        _legalize,
    )
)
