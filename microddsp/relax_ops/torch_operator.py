"""Sample-wise operators as torch operators: compiled kernels on the CPU, plain torch elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch.autograd import forward_ad

from microddsp.errors import SignalError
from microddsp.relax_ops import reference
from microddsp.relax_ops.kernel_rows import DTYPES, backward, forward
from microddsp.relax_ops.sample_operator import SampleOperator


class _Recursion(torch.autograd.Function):
    """The eager path in training: the forward pass keeps its tape."""

    @staticmethod
    def forward(ctx: Any, operator: SampleOperator, *values: Tensor) -> tuple[Tensor, ...]:
        *signals, parameters, state = values
        results, saved = forward(operator, signals, parameters, state, taped=True)
        ctx.operator = operator
        ctx.save_for_backward(*values, *saved)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.operator.signals)
        signals, (parameters, state, *saved) = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        if torch.is_grad_enabled():  # create_graph: somebody will differentiate this again
            values = (*signals, parameters, state)
            return (None, *plain_backward(ctx.operator, values, cotangents))
        return (None, *backward(ctx.operator, signals, parameters, saved, cotangents))


def plain_backward(
    operator: SampleOperator, values: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Gradients that can be differentiated again, by the plain recursion; slow. `values` are the
    signals, the parameters and the state."""
    # views: what x itself was made of is the business of others
    inputs = [v.view_as(v) if v.requires_grad else v.detach().requires_grad_() for v in values]
    return gradients_of_plain(operator, inputs, cotangents, create_graph=True)


def gradients_of_plain(
    operator: SampleOperator,
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    *,
    create_graph: bool = False,
) -> tuple[Tensor, ...]:
    """What torch makes of the plain recursion; zero where a result depends on nothing."""
    results = zip(plain(operator, *inputs), cotangents, strict=True)
    flowing = [(y, g) for y, g in results if y.requires_grad]
    if not flowing:
        return tuple(torch.zeros_like(v) for v in inputs)
    outputs, given = zip(*flowing, strict=True)
    return torch.autograd.grad(
        outputs,
        inputs,
        given,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )


def plain(operator: SampleOperator, *values: Tensor) -> tuple[Tensor, ...]:
    """Outputs and next state of `(signals.., parameters, state)` by torch's own operations."""
    *signals, coefficients, state = values
    rank = operator.parameter_rank
    flat = coefficients.reshape(*coefficients.shape[: coefficients.dim() - rank], -1)
    step = operator.step(flat.shape[-1])
    signals = operator.apart(signals, len(operator.inputs))
    start = state.reshape(*signals[0].shape[:-1], -1)
    *outputs, following = reference.run(step, signals, flat, start)
    return (*operator.together(outputs), following.reshape(state.shape))


def apply(
    operator: SampleOperator, x: Tensor, coefficients: Tensor, state: Tensor, *text: str
) -> tuple[Tensor, Tensor]:
    """Run a sample-wise operator: differentiable in signal, parameters and initial state.

    `text` is what tells operators of a family apart.

    Raises:
        SignalError: Shapes or types that do not fit together.
    """
    y, following = apply_all(operator, [x], coefficients, state, *text)
    return y, following


def apply_all(
    operator: SampleOperator,
    signals: Sequence[Tensor],
    coefficients: Tensor,
    state: Tensor,
    *text: str,
) -> tuple[Tensor, ...]:
    """As `apply`, with any number of signals in and out; the next state is the last result.

    Raises:
        SignalError: See `apply`.
    """
    check(operator, signals, coefficients, state)
    values = (*signals, coefficients, state)
    if traced(*values):
        return tuple(getattr(torch.ops.microddsp, operator.name)(*values, *text))
    if signals[0].device.type != "cpu" or transformed():
        return plain(operator, *values)
    if torch.is_grad_enabled() and any(v.requires_grad for v in values):
        return tuple(_Recursion.apply(operator, *values))
    return tuple(forward(operator, signals, coefficients, state, taped=False)[0])


def call(operator: CustomOpDef, *arguments: Any) -> Any:
    """Run an operator whose body is plain torch. Where a transform is at work that body is called:
    a registered operator would lose its tangents, silently."""
    values = [v for v in arguments if isinstance(v, Tensor)]
    if transformed() and not traced(*values):
        return operator._init_fn(*arguments)
    return operator(*arguments)


def traced(*values: Tensor) -> bool:
    """Whether a call must go through `torch.ops`: tracers have to see the operator, and their
    values have no memory. Plain calls go past it, because the first call of a custom operator
    imports the whole of torch's compiler."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or any(type(v) not in (Tensor, torch.nn.Parameter) for v in values)
    )


def transformed() -> bool:
    """Whether `torch.func` or forward-mode differentiation is at work: only plain torch operations
    carry what they need, a kernel would lose the tangents silently."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def check(
    operator: SampleOperator, signals: Sequence[Tensor], coefficients: Tensor, state: Tensor
) -> None:
    """Refuse what the kernels would misread.

    Raises:
        SignalError: See `apply`.
    """
    where = f"microddsp.{operator.name}"
    x = signals[0]
    if x.dim() < 2:
        raise SignalError(
            f"a signal is (..., channels, samples), got {tuple(x.shape)}", where=where
        )
    if x.dtype not in DTYPES:
        raise SignalError(f"a signal is float32 or float64, not {x.dtype}", where=where)
    named = zip(operator.signals, signals, strict=True)
    for what, value in (*named, ("coefficients", coefficients), ("state", state)):
        if value.dtype != x.dtype or value.device != x.device:
            raise SignalError(
                f"{what} must be {x.dtype} on {x.device} like the signal, "
                f"got {value.dtype} on {value.device}",
                where=where,
            )
    for what, value in zip(operator.signals, signals, strict=True):
        if value.shape != x.shape:
            raise SignalError(
                f"{what} of shape {tuple(value.shape)} does not fit {operator.signals[0]} of "
                f"shape {tuple(x.shape)}",
                where=where,
            )
    channels = x.shape[-2]
    if operator.joint:
        if channels != len(operator.inputs):
            raise SignalError(
                f"the step takes {len(operator.inputs)} channels, got {channels}", where=where
            )
        channels = 1
    rank = operator.parameter_rank
    own = coefficients.shape[: coefficients.dim() - rank]
    if coefficients.dim() < rank or own not in ((), (channels,)):
        raise SignalError(
            f"coefficients of shape {tuple(coefficients.shape)} fit neither all channels nor "
            f"each of {channels}",
            where=where,
        )
    count = math.prod(coefficients.shape[coefficients.dim() - rank :])
    expected = (*x.shape[:-2], channels, *operator.state_shape(count))
    if tuple(state.shape) != expected:
        raise SignalError(
            f"the state must have shape {expected}, got {tuple(state.shape)}", where=where
        )
