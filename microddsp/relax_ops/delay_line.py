"""The past of a signal in front of its newest block: [state | x], oldest sample first.

Operators that look back read from this joined signal, so that no inner loop tests where the past
ends and the block begins. On the device it is a buffer of its own, which the arena planner places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from microddsp.errors import SignalError
from microddsp.relax_ops.copy import emit_copy

if TYPE_CHECKING:
    from tvm import relax


def check_signal(operator: str, x: Tensor, *, multiple_of: int = 1) -> None:
    """Refuse what is no signal (..., channels, samples).

    Raises:
        SignalError: Wrong rank or type, no samples, or no multiple of `multiple_of` of them.
    """
    if x.ndim < 2:
        raise SignalError(f"{operator} takes x (..., channels, samples), got {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64):
        raise SignalError(f"{operator} takes float32 or float64, got {x.dtype}")
    if x.shape[-1] == 0:
        raise SignalError(f"{operator} takes at least one sample, got {tuple(x.shape)}")
    if x.shape[-1] % multiple_of:
        raise SignalError(
            f"{operator} takes blocks of a multiple of {multiple_of} samples, got {x.shape[-1]}",
            hint="pad the signal, or choose another block length",
        )


def check_state(operator: str, x: Tensor, state: Tensor, length: int) -> None:
    """Refuse a state that does not hold `length` samples of each channel of x.

    Raises:
        SignalError: Another shape or type.
    """
    expected = (*x.shape[:-1], length)
    if tuple(state.shape) != expected:
        raise SignalError(
            f"{operator} needs a state of shape {expected} for x {tuple(x.shape)}, "
            f"got {tuple(state.shape)}"
        )
    check_same_type(operator, "state", x, state)


def check_same_type(operator: str, what: str, x: Tensor, other: Tensor) -> None:
    """Refuse a tensor of another type than x.

    Raises:
        SignalError: The types differ.
    """
    if other.dtype != x.dtype:
        raise SignalError(f"{operator}: {what} is {other.dtype} but x is {x.dtype}")


def join(state: Tensor, x: Tensor) -> Tensor:
    """[state | x] along time."""
    return torch.cat((state, x), -1)


def newest(joined: Tensor, length: int) -> Tensor:
    """The last `length` samples, as a tensor of its own: the next block's state."""
    return joined.narrow(-1, joined.shape[-1] - length, length).clone(
        memory_format=torch.contiguous_format
    )


def join_backward(joined_grad: Tensor, state_grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of (state, x), given those of the joined signal and of its newest samples."""
    length = state_grad.shape[-1]
    total = joined_grad + torch.nn.functional.pad(state_grad, (joined_grad.shape[-1] - length, 0))
    return total[..., :length], total[..., length:]


def emit_join(
    builder: relax.BlockBuilder, state: relax.Expr, x: relax.Expr, *, as_frame: bool = False
) -> relax.Expr:
    """[state | x] as a kernel of its own; `as_frame` gives it the shape (1, channels, samples).

    An empty state costs nothing: the result is x itself.
    """
    from tvm import relax, tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    channels, length = (int(dim) for dim in state.ty.shape.values)
    samples = int(x.ty.shape.values[1])
    if length == 0 and not as_frame:
        return x
    shape = (*((1,) if as_frame else ()), channels, length + samples)
    lead = [0] if as_frame else []
    with IRBuilder() as ir, T.prim_func(private=True, s_tir=True):
        T.func_name("delay_line")
        T.func_attr({"tirx.noalias": True})
        past = T.arg("state", tirx.decl_buffer((channels, length), "float32", "state"))
        block = T.arg("x", tirx.decl_buffer((channels, samples), "float32", "x"))
        joined = T.arg("joined", tirx.decl_buffer(shape, "float32", "joined"))
        with T.serial(0, channels) as c:
            IRBuilder.name("c", c)
            with T.serial(0, length) as i:
                IRBuilder.name("i", i)
                T.buffer_store(joined, past[c, i], [*lead, c, i])
            with T.serial(0, samples) as n:
                IRBuilder.name("n", n)
                T.buffer_store(joined, block[c, n], [*lead, c, n + length])
    kernel = builder.add_func(ir.get(), "delay_line")
    out = relax.TensorType(shape, "float32")
    return builder.emit(relax.call_tir(kernel, [state, x], out_ty=out))


def emit_padding(builder: relax.BlockBuilder, x: relax.Expr, before: int, after: int) -> relax.Expr:
    """x (channels, samples) between zeros."""
    from tvm import relax, tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    if not before and not after:
        return x
    channels, samples = (int(dim) for dim in x.ty.shape.values)
    shape = (channels, before + samples + after)
    with IRBuilder() as ir, T.prim_func(private=True):
        T.func_name("padding")
        T.func_attr({"tirx.noalias": True})
        inner = T.arg("x", tirx.decl_buffer((channels, samples), "float32", "x"))
        padded = T.arg("padded", tirx.decl_buffer(shape, "float32", "padded"))
        with T.serial(0, channels) as c:
            for start, count in ((0, before), (before + samples, after)):
                if count:
                    with T.serial(0, count) as i:
                        T.buffer_store(padded, T.float32(0.0), [c, i + start])
            emit_copy(padded, [c, before], inner, [c, 0], samples)
    kernel = builder.add_func(ir.get(), "padding")
    return builder.emit(relax.call_tir(kernel, [x], out_ty=relax.TensorType(shape, "float32")))


def emit_newest(builder: relax.BlockBuilder, joined: relax.Expr, state: relax.Expr) -> relax.Expr:
    """The last samples of the joined signal (its rank is 2, or 3 for one frame): the new state."""
    from tvm import te

    channels, length = (int(dim) for dim in state.ty.shape.values)
    if length == 0:
        return state  # a kernel on nothing would be one with no buffer
    *lead, _, total = (int(dim) for dim in joined.ty.shape.values)
    first = [0] * len(lead)

    def newest_samples(signal: te.Tensor) -> te.Tensor:
        return te.compute(
            (channels, length),
            lambda c, i: signal[(*first, c, i + (total - length))],
            name="newest",
        )

    return builder.emit_te(newest_samples, joined, primfunc_name_hint="newest")


def following(builder: relax.BlockBuilder, state: relax.Expr, x: relax.Expr) -> relax.Call:
    """A call for the state after block x (channels, samples), where nobody joins the two; in
    place."""
    from tvm import relax, tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    channels, length = (int(dim) for dim in state.ty.shape.values)
    samples = int(x.ty.shape.values[1])
    kept = max(length - samples, 0)
    with IRBuilder() as ir, T.prim_func(private=True):
        T.func_name("following")
        T.func_attr({"tirx.noalias": True, "microddsp.inplace": [[2, 0]]})
        past = T.arg("state", tirx.decl_buffer((channels, length), "float32", "state"))
        block = T.arg("x", tirx.decl_buffer((channels, samples), "float32", "x"))
        following = T.arg("following", tirx.decl_buffer((channels, length), "float32", "following"))
        with T.serial(0, channels) as c:
            if kept:
                with T.serial(0, kept) as i:
                    T.buffer_store(following, past[c, i + samples], [c, i])
            with T.serial(0, length - kept) as n:
                newest = block[c, n + (samples - (length - kept))]
                T.buffer_store(following, newest, [c, n + kept])
    kernel = builder.add_func(ir.get(), "following")
    return relax.call_tir(kernel, [state, x], out_ty=state.ty)
