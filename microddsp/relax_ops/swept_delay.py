"""A delay whose length is a signal: a ring of the newest samples, read between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from microddsp.errors import SignalError
from microddsp.relax_ops import delay_line
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

NAME = "swept_delay"
SHORTEST = 3  # samples of a ring: the newest, and two that lie beside a delay of one


def swept_delay(
    x: Tensor, delay: Tensor, line: Tensor, place: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """y[n] = x(n - delay[n]), on the straight line between the two samples beside it.

    Args:
        x: (..., channels, samples), float32 or float64.
        delay: Like x, in samples. It is held between 0 and length - 2, and beyond that its
            gradient is zero; a NaN gives a NaN.
        line: (..., channels, length), the past as a ring, at least three long.
        place: int32 (..., channels, 1), where in the ring the oldest sample lies.

    Returns:
        The delayed signal, and the ring and the place after the last sample. Differentiable in x,
        delay and line; at a whole number of samples the slope is that to the older one.

    Raises:
        SignalError: Shapes or types that do not fit together.
    """
    _check(x, delay, line, place)
    y, following, after = call(_swept_delay, x, delay, line, place)
    return y, following, after


def _check(x: Tensor, delay: Tensor, line: Tensor, place: Tensor) -> None:
    delay_line.check_signal(NAME, x)
    delay_line.check_state(NAME, x, line, line.shape[-1])
    delay_line.check_same_type(NAME, "delay", x, delay)
    where = f"microddsp.{NAME}"
    if delay.shape != x.shape:
        raise SignalError(
            f"delay {tuple(delay.shape)} does not fit the signal {tuple(x.shape)}", where=where
        )
    if line.shape[-1] < SHORTEST:
        raise SignalError(
            f"the line holds at least {SHORTEST} samples, got {line.shape[-1]}", where=where
        )
    if place.dtype != torch.int32 or place.shape != (*x.shape[:-1], 1):
        raise SignalError(
            f"the place is int32 {(*x.shape[:-1], 1)}, got {place.dtype} {tuple(place.shape)}",
            where=where,
        )


def _turned(line: Tensor, by: Tensor) -> Tensor:
    """Sample `by + i` of the ring at i, around its end."""
    length = line.shape[-1]
    index = torch.arange(length, device=line.device) + by.to(torch.int64)
    return line.gather(-1, index % length)


def _after(place: Tensor, samples: int, length: int) -> Tensor:
    return torch.remainder(place + samples, length).to(torch.int32)


def _read(delay: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Where in [past | x] the newer neighbour of each sample's delay lies, and the share of the
    older one, which is a NaN where the delay is."""
    held = delay.clamp(0, length - 2)
    whole = torch.nan_to_num(held.detach()).floor().to(torch.int64)
    now = torch.arange(delay.shape[-1], device=delay.device) + length
    return now - whole, held - whole


@torch.library.custom_op(f"microddsp::{NAME}", mutates_args=())
def _swept_delay(
    x: Tensor, delay: Tensor, line: Tensor, place: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, delay, line, place)
    length, after = line.shape[-1], _after(place, x.shape[-1], line.shape[-1])
    joined = delay_line.join(_turned(line, place), x)
    newer, share = _read(delay, length)
    right, left = joined.gather(-1, newer), joined.gather(-1, newer - 1)
    following = _turned(delay_line.newest(joined, length), -after)
    return right + share * (left - right), following, after


@_swept_delay.register_fake
def _(x: Tensor, delay: Tensor, line: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, delay, line, place)
    return x.new_empty(x.shape), line.new_empty(line.shape), place.new_empty(place.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*inputs)


def _backward(
    ctx: Any, y_grad: Tensor, line_grad: Tensor, _place_grad: Tensor | None
) -> tuple[Tensor | None, ...]:
    x, delay, line, place = ctx.saved_tensors
    length, after = line.shape[-1], _after(place, x.shape[-1], line.shape[-1])
    joined = delay_line.join(_turned(line, place), x)
    newer, share = _read(delay, length)
    slope = joined.gather(-1, newer - 1) - joined.gather(-1, newer)
    inside = (delay >= 0) & (delay <= length - 2)
    joined_grad = torch.zeros_like(joined).scatter_add(-1, newer, y_grad * (1 - share))
    joined_grad = joined_grad.scatter_add(-1, newer - 1, y_grad * share)
    past_grad, x_grad = delay_line.join_backward(joined_grad, _turned(line_grad, after))
    return x_grad, torch.where(inside, y_grad * slope, 0.0), _turned(past_grad, -place), None


_swept_delay.register_autograd(_backward, setup_context=_setup_context)


# ---- device


def _type_rule(args: Sequence[relax.Expr]) -> relax.Type:
    from tvm import relax

    x, delay, line, place = args
    channels, samples = signal_shape(NAME, x)
    expect_shape(NAME, "delay", delay, (channels, samples), dtype="float32")
    length = shape_of(NAME, "line", line)[-1]
    expect_shape(NAME, "line", line, (channels, length), dtype="float32")
    expect_shape(NAME, "place", place, (channels, 1), dtype="int32")
    return relax.TupleType([signal_type(channels, samples), line.ty, place.ty])


define(RelaxOperator(NAME, ("x", "delay", "line", "place"), _type_rule))
