"""Overlapping frames of a stream: the newest `length` samples, every `hop` samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from microddsp.errors import CompileError, ParameterError
from microddsp.relax_ops import delay_line
from microddsp.relax_ops.registry import (
    RelaxOperator,
    define,
    expect_shape,
    integer,
    signal_shape,
    signal_type,
)
from microddsp.relax_ops.torch_operator import call

if TYPE_CHECKING:
    from tvm import relax, te


def frames(x: Tensor, length: int, hop: int, state: Tensor) -> tuple[Tensor, Tensor]:
    """Cut x (..., channels, samples) into frames (..., samples / hop, channels, length).

    Frame m ends at sample (m+1) * hop - 1. The state (..., channels, length - hop) holds the past
    input, oldest first. Returns (frames, state).

    Raises:
        SignalError: x or the state has the wrong shape, or samples is no multiple of hop.
        ParameterError: Not 1 <= hop <= length.
    """
    _check(x, length, hop, state)
    y, new_state = call(_frames, x, length, hop, state)
    return y, new_state


def _check(x: Tensor, length: int, hop: int, state: Tensor) -> None:
    if not 1 <= hop <= length:
        raise ParameterError(f"frames take 1 <= hop <= length, got hop={hop} and length={length}")
    delay_line.check_signal("frames", x, multiple_of=hop)
    delay_line.check_state("frames", x, state, length - hop)


@torch.library.custom_op("microddsp::frames", mutates_args=())
def _frames(x: Tensor, length: int, hop: int, state: Tensor) -> tuple[Tensor, Tensor]:
    _check(x, length, hop, state)
    joined = delay_line.join(state, x)
    cut = joined.unfold(-1, length, hop).movedim(-2, -3)
    return (
        cut.clone(memory_format=torch.contiguous_format),
        delay_line.newest(joined, length - hop),
    )


@_frames.register_fake
def _(x: Tensor, length: int, hop: int, state: Tensor) -> tuple[Tensor, Tensor]:
    _check(x, length, hop, state)
    y = x.new_empty((*x.shape[:-2], x.shape[-1] // hop, x.shape[-2], length))
    return y, state.new_empty(state.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, ctx.length, ctx.hop, state = inputs
    ctx.joined_shape = (*x.shape[:-1], x.shape[-1] + state.shape[-1])


def _backward(ctx: Any, y_grad: Tensor, state_grad: Tensor) -> tuple[Tensor | None, ...]:
    joined_grad = torch.ops.aten.unfold_backward(
        y_grad.movedim(-3, -2), list(ctx.joined_shape), -1, ctx.length, ctx.hop
    )
    s_grad, x_grad = delay_line.join_backward(joined_grad, state_grad)
    return x_grad, None, None, s_grad


_frames.register_autograd(_backward, setup_context=_setup_context)


# ---- device


def _type_rule(args: Sequence[relax.Expr]) -> relax.Type:
    from tvm import relax

    x, length_arg, hop_arg, state = args
    channels, samples = signal_shape("frames", x)
    length = integer("frames", "length", length_arg, least=1)
    hop = integer("frames", "hop", hop_arg, least=1)
    if hop > length:
        raise CompileError(f"hop {hop} is longer than the frame {length}", where="dsp.frames")
    expect_shape("frames", "state", state, (channels, length - hop), dtype="float32")
    if samples % hop:
        raise CompileError(
            f"the block of {samples} samples is no multiple of the hop {hop}",
            where="dsp.frames",
            hint="choose another block length",
        )
    return relax.TupleType([signal_type(samples // hop, channels, length), state.ty])


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    from tvm import relax, te

    x, length_arg, hop_arg, state = node.args
    length, hop = int(length_arg), int(hop_arg)
    channels, samples = (int(dim) for dim in x.ty.shape.values)
    if length == hop and (channels == 1 or samples == hop):  # the frames lie in x one by one
        return relax.Tuple([relax.op.reshape(x, (samples // hop, channels, length)), state])
    if samples == hop and length > hop:  # one frame: it is the joined signal
        frame = delay_line.emit_join(builder, state, x, as_frame=True)
        return relax.Tuple([frame, delay_line.emit_newest(builder, frame, state)])

    def cut(joined: te.Tensor) -> te.Tensor:
        return te.compute(
            (samples // hop, channels, length),
            lambda m, c, i: joined[c, m * hop + i],
            name="frames",
        )

    joined = delay_line.emit_join(builder, state, x)
    y = builder.emit_te(cut, joined, primfunc_name_hint="frames")
    return relax.Tuple([y, delay_line.emit_newest(builder, joined, state)])


define(RelaxOperator("frames", ("x", "length", "hop", "state"), _type_rule, _legalize))
