"""A fixed delay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from microddsp.errors import ParameterError
from microddsp.relax_ops import delay_line
from microddsp.relax_ops.delay_kernel import delay_kernel
from microddsp.relax_ops.registry import (
    RelaxOperator,
    define,
    expect_shape,
    integer,
    signal_shape,
)
from microddsp.relax_ops.torch_operator import call

if TYPE_CHECKING:
    from tvm import relax


def delay(x: Tensor, samples: int, state: Tensor) -> tuple[Tensor, Tensor]:
    """x (..., channels, n) some samples later; the state (..., channels, samples), oldest first.

    Raises:
        SignalError: x or the state has the wrong shape or type.
        ParameterError: samples is below 1.
    """
    _check_delay(x, samples, state)
    y, following = call(_delay, x, samples, state)
    return y, following


def _check_delay(x: Tensor, samples: int, state: Tensor) -> None:
    if samples < 1:
        raise ParameterError(f"delay takes at least 1 sample, got {samples}")
    delay_line.check_signal("delay", x)
    delay_line.check_state("delay", x, state, samples)


@torch.library.custom_op("microddsp::delay", mutates_args=())
def _delay(x: Tensor, samples: int, state: Tensor) -> tuple[Tensor, Tensor]:
    _check_delay(x, samples, state)
    joined = delay_line.join(state, x)
    return joined[..., : x.shape[-1]].contiguous(), delay_line.newest(joined, samples)


@_delay.register_fake
def _(x: Tensor, samples: int, state: Tensor) -> tuple[Tensor, Tensor]:
    _check_delay(x, samples, state)
    return x.new_empty(x.shape), state.new_empty(state.shape)


def _setup_delay(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.samples = inputs[1]


def _delay_backward(ctx: Any, y_grad: Tensor, state_grad: Tensor) -> tuple[Tensor | None, ...]:
    joined_grad = torch.nn.functional.pad(y_grad, (0, ctx.samples))
    s_grad, x_grad = delay_line.join_backward(joined_grad, state_grad)
    return x_grad, None, s_grad


_delay.register_autograd(_delay_backward, setup_context=_setup_delay)


# ---- device


def _type_rule(args: Sequence[relax.Expr]) -> relax.Type:
    from tvm import relax

    x, samples_arg, state = args
    channels, _ = signal_shape("delay", x)
    samples = integer("delay", "samples", samples_arg, least=1)
    expect_shape("delay", "state", state, (channels, samples), dtype="float32")
    return relax.TupleType([x.ty, state.ty])


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    from tvm import relax

    x, samples, state = node.args
    channels, block = (int(dim) for dim in x.ty.shape.values)
    offsets, taps = np.full(channels, int(samples)), np.ones((channels, 1), "float32")
    kernel = builder.add_func(delay_kernel(block, taps, offsets, int(samples)), "delay")
    return relax.call_tir(kernel, [x, state], out_ty=[x.ty, state.ty])


define(RelaxOperator("delay", ("x", "samples", "state"), _type_rule, _legalize))
