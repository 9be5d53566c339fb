"""Keep every factor-th sample. No filter: put a low-pass in front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from microddsp.errors import CompileError, ParameterError
from microddsp.relax_ops.delay_line import check_signal
from microddsp.relax_ops.registry import (
    RelaxOperator,
    define,
    integer,
    signal_shape,
    signal_type,
)
from microddsp.relax_ops.torch_operator import call

if TYPE_CHECKING:
    from tvm import relax, te


def decimate(x: Tensor, factor: int) -> Tensor:
    """x (..., channels, samples) -> (..., channels, samples / factor), the first sample is kept.

    Raises:
        SignalError: x has the wrong shape or type, or samples is no multiple of factor.
        ParameterError: factor is below 1.
    """
    _check(x, factor)
    y: Tensor = call(_decimate, x, factor)
    return y


def _check(x: Tensor, factor: int) -> None:
    if factor < 1:
        raise ParameterError(f"decimate takes a factor of at least 1, got {factor}")
    check_signal("decimate", x, multiple_of=factor)


@torch.library.custom_op("microddsp::decimate", mutates_args=())
def _decimate(x: Tensor, factor: int) -> Tensor:
    _check(x, factor)
    return x[..., ::factor].clone(memory_format=torch.contiguous_format)


@_decimate.register_fake
def _(x: Tensor, factor: int) -> Tensor:
    _check(x, factor)
    return x.new_empty((*x.shape[:-1], x.shape[-1] // factor))


def _setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
    ctx.factor = inputs[1]


def _backward(ctx: Any, y_grad: Tensor) -> tuple[Tensor, None]:
    return torch.nn.functional.pad(y_grad.unsqueeze(-1), (0, ctx.factor - 1)).flatten(-2), None


_decimate.register_autograd(_backward, setup_context=_setup_context)


# ---- device


def _type_rule(args: Sequence[relax.Expr]) -> relax.Type:
    x, factor_arg = args
    channels, samples = signal_shape("decimate", x)
    factor = integer("decimate", "factor", factor_arg, least=1)
    if samples % factor:
        raise CompileError(
            f"the block of {samples} samples is no multiple of the factor {factor}",
            where="dsp.decimate",
            hint="choose another block length",
        )
    return signal_type(channels, samples // factor)


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    from tvm import te

    factor = int(node.args[1])
    channels, samples = (int(dim) for dim in node.args[0].ty.shape.values)

    def every(x: te.Tensor) -> te.Tensor:
        return te.compute(
            (channels, samples // factor), lambda c, m: x[c, m * factor], name="decimate"
        )

    return builder.call_te(every, node.args[0], primfunc_name_hint="decimate")


define(RelaxOperator("decimate", ("x", "factor"), _type_rule, _legalize))
