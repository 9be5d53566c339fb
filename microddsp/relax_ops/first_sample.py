"""Start a filter as if its first sample had always been there, so that an offset makes no step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from microddsp.errors import CompileError, ParameterError, SignalError
from microddsp.relax_ops.delay_line import check_same_type, check_signal
from microddsp.relax_ops.registry import (
    RelaxOperator,
    define,
    expect_shape,
    shape_of,
    signal_shape,
)
from microddsp.relax_ops.torch_operator import call

if TYPE_CHECKING:
    from tvm import relax, te


def first_sample(
    x: Tensor, gain: Tensor, state: Tensor, held: Tensor, started: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Where `started` is 0: held = first sample, state = gain * held, started = 1; else no change.

    x (..., channels, samples), state (..., channels, *S), gain *S or (channels, *S): the steady
    state for a constant input of 1; held (..., channels, 1); started: one element of any type.
    Returns (state, held, started).

    Raises:
        SignalError: x is empty, or a shape or type does not fit.
        ParameterError: gain does not fit the state.
    """
    _check(x, gain, state, held, started)
    new_state, new_held, new_started = call(_first_sample, x, gain, state, held, started)
    return new_state, new_held, new_started


def _check(x: Tensor, gain: Tensor, state: Tensor, held: Tensor, started: Tensor) -> None:
    check_signal("first_sample", x)
    lead = tuple(x.shape[:-1])
    if tuple(held.shape) != (*lead, 1):
        raise SignalError(f"first_sample needs held {(*lead, 1)}, got {tuple(held.shape)}")
    if tuple(state.shape[: len(lead)]) != lead:
        raise SignalError(f"first_sample needs a state {(*lead, '...')}, got {tuple(state.shape)}")
    if started.numel() != 1:
        raise SignalError(f"first_sample needs one started flag, got {tuple(started.shape)}")
    trailing = tuple(state.shape[len(lead) :])
    if tuple(gain.shape) not in (trailing, (lead[-1], *trailing)):
        raise ParameterError(
            f"first_sample takes gain {trailing} or {(lead[-1], *trailing)}, "
            f"got {tuple(gain.shape)}"
        )
    for what, value in (("gain", gain), ("state", state), ("held", held)):
        check_same_type("first_sample", what, x, value)


def _like_state(held: Tensor, state: Tensor) -> Tensor:
    """(..., channels, 1) -> (..., channels, 1 for each of the state's own dimensions)."""
    return held.reshape(*held.shape[:-1], *(1,) * (state.ndim - held.ndim + 1))


@torch.library.custom_op("microddsp::first_sample", mutates_args=())
def _first_sample(
    x: Tensor, gain: Tensor, state: Tensor, held: Tensor, started: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, gain, state, held, started)
    first = started.reshape(()) == 0
    new_held = torch.where(first, x[..., :1], held).contiguous()
    new_state = torch.where(first, gain * _like_state(new_held, state), state).contiguous()
    return new_state, new_held, torch.ones_like(started)


@_first_sample.register_fake
def _(
    x: Tensor, gain: Tensor, state: Tensor, held: Tensor, started: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, gain, state, held, started)
    return (
        state.new_empty(state.shape),
        held.new_empty(held.shape),
        started.new_empty(started.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    x, gain, state, _held, started = inputs
    ctx.samples, ctx.state_ndim = x.shape[-1], state.ndim
    ctx.mark_non_differentiable(output[2])
    # x itself and no view of it: second derivatives go on from what is saved
    ctx.save_for_backward(x, gain, state, started)


def _backward(
    ctx: Any, state_grad: Tensor, held_grad: Tensor, _started_grad: Tensor | None
) -> tuple[Tensor | None, ...]:
    x, gain, state, started = ctx.saved_tensors
    first_x = x[..., :1]
    first = started.reshape(()) == 0
    own = tuple(range(first_x.ndim - 1, state.ndim))
    through_state = (state_grad * gain).sum(own) if own else state_grad * gain
    fed = torch.where(first, held_grad + through_state.unsqueeze(-1), 0.0)
    x_grad = torch.nn.functional.pad(fed, (0, ctx.samples - 1))
    products = torch.where(first, state_grad * _like_state(first_x, state), 0.0)
    gain_grad = products.sum_to_size(gain.shape)
    return (
        x_grad,
        gain_grad,
        torch.where(first, 0.0, state_grad),
        torch.where(first, 0.0, held_grad),
        None,
    )


_first_sample.register_autograd(_backward, setup_context=_setup_context)


# ---- device


def _type_rule(args: Sequence[relax.Expr]) -> relax.Type:
    from tvm import relax

    x, gain, state, held, started = args
    channels, _ = signal_shape("first_sample", x)
    shape = shape_of("first_sample", "state", state)
    if shape[:1] != (channels,):
        raise CompileError(
            f"the state {shape} does not fit {channels} channels", where="dsp.first_sample"
        )
    expect_shape("first_sample", "state", state, shape, dtype="float32")
    expect_shape("first_sample", "gain", gain, shape[1:], shape, dtype="float32")
    expect_shape("first_sample", "held", held, (channels, 1), dtype="float32")
    flag = shape_of("first_sample", "started", started)
    if any(dim != 1 for dim in flag):
        raise CompileError(f"started must have one element, got {flag}", where="dsp.first_sample")
    return relax.TupleType([state.ty, held.ty, started.ty])


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    from tvm import te, tirx

    channels, *own = (int(dim) for dim in node.args[2].ty.shape.values)
    flag_shape = tuple(int(dim) for dim in node.args[4].ty.shape.values)
    flag_dtype = str(node.args[4].ty.dtype)
    per_channel = len(node.args[1].ty.shape.values) == len(own) + 1

    def start(
        x: te.Tensor, gain: te.Tensor, state: te.Tensor, held: te.Tensor, started: te.Tensor
    ) -> list[te.Tensor]:
        # Not `== 0` on the flag itself: a bool has no such comparison in TIR.
        first = started[(0,) * len(flag_shape)].astype("int32") == 0

        def new_state(c: tirx.Var, *i: tirx.Var) -> tirx.PrimExpr:
            steady = gain[(c, *i)] if per_channel else gain[i]
            return tirx.Select(first, steady * x[c, 0], state[(c, *i)])

        return [
            te.compute((channels, *own), new_state, name="steady_state"),
            te.compute(
                (channels, 1), lambda c, i: tirx.Select(first, x[c, 0], held[c, i]), name="held"
            ),
            te.compute(flag_shape, lambda *_: tirx.const(1, flag_dtype), name="started"),
        ]

    return builder.call_te(start, *node.args, primfunc_name_hint="first_sample")


define(
    RelaxOperator("first_sample", ("x", "gain", "state", "held", "started"), _type_rule, _legalize)
)
