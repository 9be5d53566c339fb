"""A table as a curve: read at any place, between its values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from microddsp.relax_ops import delay_line
from microddsp.relax_ops.between import (
    check_values,
    neighbours,
    spread,
    table_kernel,
    values_rule,
)
from microddsp.relax_ops.registry import RelaxOperator, define, signal_shape, signal_type
from microddsp.relax_ops.torch_operator import call

if TYPE_CHECKING:
    from tvm import relax


def table(x: Tensor, values: Tensor) -> Tensor:
    """values[x], on the straight line between neighbours; the ends go on for ever.

    Args:
        x: (..., channels, samples), positions from 0 to length - 1, float32 or float64.
        values: (length,) for all channels, or (channels, length), at least two.

    Returns:
        What is there, like x; NaN where x is. Differentiable in both.

    Raises:
        SignalError: Shapes or types that do not fit together.
    """
    _check(x, values)
    y: Tensor = call(_table, x, values)
    return y


def _check(x: Tensor, values: Tensor) -> None:
    delay_line.check_signal("table", x)
    check_values("table", x, values)


def _place(x: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the left neighbour, int64, and the share of the right one."""
    last = values.shape[-1] - 1
    held = x.clamp(0, last)
    left = torch.nan_to_num(held.detach()).floor().clamp(max=last - 1)
    return left.to(torch.int64), held - left


@torch.library.custom_op("microddsp::table", mutates_args=())
def _table(x: Tensor, values: Tensor) -> Tensor:
    _check(x, values)
    index, share = _place(x, values)
    left, right = neighbours(index, values)
    return left + share * (right - left)


@_table.register_fake
def _(x: Tensor, values: Tensor) -> Tensor:
    _check(x, values)
    return x.new_empty(x.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, y_grad: Tensor) -> tuple[Tensor, Tensor]:
    x, values = ctx.saved_tensors
    index, share = _place(x, values)
    left, right = neighbours(index, values)
    inside = (x >= 0) & (x <= values.shape[-1] - 1)
    x_grad = torch.where(inside, y_grad * (right - left), 0.0)
    return x_grad, spread(index, share, y_grad, values)


_table.register_autograd(_backward, setup_context=_setup_context)


# ---- device


def _type_rule(args: Sequence[relax.Expr]) -> relax.Type:
    x, values = args
    channels, samples = signal_shape("table", x)
    values_rule("table", channels, values)
    return signal_type(channels, samples)


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    from tvm import relax

    shape, values = (tuple(int(dim) for dim in arg.ty.shape.values) for arg in node.args)
    kernel = table_kernel("table", shape, values, "x")
    return relax.call_tir(builder.add_func(kernel, "table"), [*node.args], out_ty=node.args[0].ty)


define(RelaxOperator("table", ("x", "values"), _type_rule, _legalize))
