"""A short filter at any distance in the past: what fractional and learnable delays are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from microddsp.errors import CompileError, SignalError
from microddsp.relax_ops import delay_line
from microddsp.relax_ops.delay_kernel import delay_kernel
from microddsp.relax_ops.registry import (
    RelaxOperator,
    define,
    expect_shape,
    shape_of,
    signal_shape,
    signal_type,
)
from microddsp.relax_ops.torch_operator import call

if TYPE_CHECKING:
    from tvm import relax


def tapped_delay(x: Tensor, taps: Tensor, offsets: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """y[n] = sum over j of taps[j] * x[n - offset - j]: a few taps, anywhere in the past.

    Args:
        x: (..., channels, samples), float32 or float64.
        taps: (count,) for all channels, or (channels, count).
        offsets: int32, (1,) for all channels or (channels,); no gradient.
        state: (..., channels, length), the past, oldest first, at least offset + count - 1 long.

    Returns:
        The signal and the state after its last sample. Differentiable in x, taps and state.

    Raises:
        SignalError: Shapes or types that do not fit together.
    """
    _check_tapped(x, taps, offsets, state)
    y, following = call(_tapped_delay, x, taps, offsets, state)
    return y, following


def _check_tapped(x: Tensor, taps: Tensor, offsets: Tensor, state: Tensor) -> None:
    delay_line.check_signal("tapped_delay", x)
    delay_line.check_state("tapped_delay", x, state, state.shape[-1])
    delay_line.check_same_type("tapped_delay", "taps", x, taps)
    channels = x.shape[-2]
    if taps.ndim not in (1, 2) or taps.shape[:-1] not in ((), (channels,)) or not taps.shape[-1]:
        raise SignalError(
            f"taps are (count,) or ({channels}, count), got {tuple(taps.shape)}",
            where="microddsp.tapped_delay",
        )
    if offsets.dtype != torch.int32 or tuple(offsets.shape) not in ((1,), (channels,)):
        raise SignalError(
            f"offsets are int32 (1,) or ({channels},), got {offsets.dtype} {tuple(offsets.shape)}",
            where="microddsp.tapped_delay",
        )


def _check_reach(count: int, offsets: Tensor, length: int) -> None:
    """Only where values are: a tracer has none."""
    furthest, nearest = int(offsets.max()) + count - 1, int(offsets.min())
    if furthest > length or nearest < 0:
        raise SignalError(
            f"taps reach {furthest if nearest >= 0 else nearest} samples back, the state holds "
            f"{length}",
            where="microddsp.tapped_delay",
        )


def _places(x: Tensor, count: int, offsets: Tensor, length: int) -> list[Tensor]:
    """For each tap, where in [state | x] it reads for each channel and sample."""
    now = torch.arange(x.shape[-1], device=x.device) + length
    newest = now - offsets.to(torch.int64)[:, None]
    return [(newest - j).expand(x.shape) for j in range(count)]


def _gain(taps: Tensor, j: int) -> Tensor:
    return taps[..., j, None]


@torch.library.custom_op("microddsp::tapped_delay", mutates_args=())
def _tapped_delay(x: Tensor, taps: Tensor, offsets: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    _check_tapped(x, taps, offsets, state)
    _check_reach(taps.shape[-1], offsets, state.shape[-1])
    joined = delay_line.join(state, x)
    y = torch.zeros_like(x)
    for j, place in enumerate(_places(x, taps.shape[-1], offsets, state.shape[-1])):
        y = y + _gain(taps, j) * joined.gather(-1, place)
    return y, delay_line.newest(joined, state.shape[-1])


@_tapped_delay.register_fake
def _(x: Tensor, taps: Tensor, offsets: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    _check_tapped(x, taps, offsets, state)
    return x.new_empty(x.shape), state.new_empty(state.shape)


def _setup_tapped(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs)


def _tapped_backward(ctx: Any, y_grad: Tensor, state_grad: Tensor) -> tuple[Tensor | None, ...]:
    x, taps, offsets, state = ctx.saved_tensors
    joined = delay_line.join(state, x)
    joined_grad = torch.zeros_like(joined)
    taps_grads = []
    for j, place in enumerate(_places(x, taps.shape[-1], offsets, state.shape[-1])):
        joined_grad = joined_grad.scatter_add(-1, place, _gain(taps, j) * y_grad)
        product = (y_grad * joined.gather(-1, place)).sum(-1)
        taps_grads.append(product.sum_to_size(taps.shape[:-1]) if taps.ndim > 1 else product.sum())
    s_grad, x_grad = delay_line.join_backward(joined_grad, state_grad)
    return x_grad, torch.stack(taps_grads, -1), None, s_grad


_tapped_delay.register_autograd(_tapped_backward, setup_context=_setup_tapped)


# ---- device


def _type_rule(args: Sequence[relax.Expr]) -> relax.Type:
    from tvm import relax

    x, taps, offsets, state = args
    channels, samples = signal_shape("tapped_delay", x)
    count = shape_of("tapped_delay", "taps", taps)[-1:] or (0,)
    expect_shape("tapped_delay", "taps", taps, count, (channels, *count), dtype="float32")
    expect_shape("tapped_delay", "offsets", offsets, (1,), (channels,), dtype="int32")
    length = shape_of("tapped_delay", "state", state)[-1]
    expect_shape("tapped_delay", "state", state, (channels, length), dtype="float32")
    return relax.TupleType([signal_type(channels, samples), state.ty])


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    import tvm
    from tvm import relax

    x, taps, offsets, state = node.args
    if not all(isinstance(value, tvm.ir.GenericConst) for value in (taps, offsets)):
        raise CompileError(
            "the delay must be known when compiling",
            where="dsp.tapped_delay",
            hint="dsp.SweptDelay is a delay that follows a signal",
        )
    channels, block = (int(dim) for dim in x.ty.shape.values)
    weights = np.broadcast_to(taps.value.numpy(), (channels, int(taps.ty.shape.values[-1])))
    places = np.broadcast_to(offsets.value.numpy(), (channels,))
    length = int(state.ty.shape.values[1])
    kernel = builder.add_func(delay_kernel(block, weights, places, length), "tapped_delay")
    return relax.call_tir(kernel, [x, state], out_ty=[x.ty, state.ty])


_ARGUMENTS = ("x", "taps", "offsets", "state")
define(RelaxOperator("tapped_delay", _ARGUMENTS, _type_rule, _legalize))
