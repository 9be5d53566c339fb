"""Reading a table between its values, at an index and a share of the way to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from microddsp.errors import CompileError, SignalError
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
    from tvm import relax, tirx


def between(index: Tensor, share: Tensor, values: Tensor) -> Tensor:
    """values[index] + share * (values[index + 1] - values[index]).

    Args:
        index: (..., channels, samples), whole numbers as float32 or float64; the nearest is taken
            for others, and for those outside the nearest inside.
        share: Like index, from 0 to 1.
        values: (length,) for all channels, or (channels, length), at least two.

    Returns:
        What is there, like share. Differentiable in share and values.

    Raises:
        SignalError: Shapes or types that do not fit together.
    """
    _check(index, share, values)
    y: Tensor = call(_between, index, share, values)
    return y


def _check(index: Tensor, share: Tensor, values: Tensor) -> None:
    delay_line.check_signal("between", share)
    delay_line.check_same_type("between", "index", share, index)
    check_values("between", share, values)
    if index.shape != share.shape:
        raise SignalError(
            f"index {tuple(index.shape)} and share {tuple(share.shape)} differ",
            where="microddsp.between",
        )


def check_values(name: str, x: Tensor, values: Tensor) -> None:
    """Refuse a table that does not fit a signal.

    Raises:
        SignalError: See `between`.
    """
    delay_line.check_same_type(name, "values", x, values)
    if values.ndim not in (1, 2) or values.shape[:-1] not in ((), (x.shape[-2],)):
        raise SignalError(
            f"values are (length,) or ({x.shape[-2]}, length), got {tuple(values.shape)}",
            where=f"microddsp.{name}",
        )
    if values.shape[-1] < 2:
        raise SignalError("a table has at least two values", where=f"microddsp.{name}")


def neighbours(index: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """values[index] and values[index + 1] for every sample; the index is int64."""
    rows = values.expand(*index.shape[:-1], values.shape[-1])
    return rows.gather(-1, index), rows.gather(-1, index + 1)


def spread(index: Tensor, share: Tensor, y_grad: Tensor, values: Tensor) -> Tensor:
    """The gradient of the values: what was read goes back to both neighbours."""
    gradient = y_grad.new_zeros((*index.shape[:-1], values.shape[-1]))
    gradient = gradient.scatter_add(-1, index, y_grad * (1 - share))
    gradient = gradient.scatter_add(-1, index + 1, y_grad * share)
    return gradient.sum_to_size(values.shape)


def _inside(index: Tensor, values: Tensor) -> Tensor:
    return torch.nan_to_num(index.detach()).clamp(0, values.shape[-1] - 2).add(0.5).to(torch.int64)


@torch.library.custom_op("microddsp::between", mutates_args=())
def _between(index: Tensor, share: Tensor, values: Tensor) -> Tensor:
    _check(index, share, values)
    left, right = neighbours(_inside(index, values), values)
    return left + share * (right - left)


@_between.register_fake
def _(index: Tensor, share: Tensor, values: Tensor) -> Tensor:
    _check(index, share, values)
    return share.new_empty(share.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, y_grad: Tensor) -> tuple[None, Tensor, Tensor]:
    index, share, values = ctx.saved_tensors
    where = _inside(index, values)
    left, right = neighbours(where, values)
    return None, y_grad * (right - left), spread(where, share, y_grad, values)


_between.register_autograd(_backward, setup_context=_setup_context)


# ---- device


def values_rule(name: str, channels: int, values: relax.Expr) -> int:
    """The length of a table for so many channels.

    Raises:
        CompileError: Its shape does not fit.
    """
    length = shape_of(name, "values", values)[-1:] or (0,)
    if length[0] < 2:
        raise CompileError("a table has at least two values", where=f"dsp.{name}")
    expect_shape(name, "values", values, length, (channels, *length), dtype="float32")
    return length[0]


def _type_rule(args: Sequence[relax.Expr]) -> relax.Type:
    index, share, values = args
    channels, samples = signal_shape("between", share)
    expect_shape("between", "index", index, (channels, samples), dtype="float32")
    values_rule("between", channels, values)
    return signal_type(channels, samples)


def table_kernel(
    name: str, shape: tuple[int, ...], values: tuple[int, ...], *signals: str
) -> tirx.PrimFunc:
    """(signals.., values) to y: at a place, or at an index and a share."""
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    last = values[-1] - 1

    zero, end = T.float32(0.0), T.float32(float(last - 1))

    def index_of(x: Any) -> Any:
        # a NaN is not above zero: it must not become an index
        inside = tirx.Select(x > zero, tirx.Select(x < end, x, end), zero)
        return T.bind(tirx.Cast("int32", inside))

    def held(x: Any) -> Any:
        # a NaN is neither below nor above, and stays
        above = tirx.Select(x < zero, zero, x)
        return T.bind(tirx.Select(x > T.float32(float(last)), T.float32(float(last)), above))

    with IRBuilder() as builder, T.prim_func(private=True):
        T.func_name(name)
        # opaque to fusion, which takes only loops that TVM made itself
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        *read, content, y = (
            T.arg(what, tirx.decl_buffer(size, "float32", what))
            for what, size in (*((s, shape) for s in signals), ("values", values), ("y", shape))
        )
        with T.serial(0, shape[0]) as c, T.serial(0, shape[1]) as n:
            samples = [T.bind(signal[c, n]) for signal in read]
            if len(samples) == 1:
                place = held(samples[0])
                index = index_of(place)
                share = place - tirx.Cast("float32", index)
            else:
                index = index_of(T.bind(samples[0] + T.float32(0.5)))
                share = samples[1]
            row = [] if len(values) == 1 else [c]
            left, right = (T.bind(content[(*row, index + k)]) for k in (0, 1))
            T.buffer_store(y, left + share * (right - left), [c, n])
    return builder.get()


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    from tvm import relax

    shape, values = (tuple(int(dim) for dim in node.args[i].ty.shape.values) for i in (1, 2))
    kernel = table_kernel("between", shape, values, "index", "share")
    return relax.call_tir(builder.add_func(kernel, "between"), [*node.args], out_ty=node.args[1].ty)


define(RelaxOperator("between", ("index", "share", "values"), _type_rule, _legalize))
