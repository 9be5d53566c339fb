"""Sample-wise operators as `torch.ops.microddsp.<name>`, for exports and compilers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from microddsp.relax_ops.kernel_rows import backward as run_backward
from microddsp.relax_ops.kernel_rows import forward as run_forward
from microddsp.relax_ops.sample_operator import SampleOperator
from microddsp.relax_ops.torch_operator import gradients_of_plain, plain, plain_backward, traced


def register(operator: SampleOperator) -> None:
    """Make `torch.ops.microddsp.<name>` and its backward operator."""
    _connect(operator.name, operator.inputs, operator.outputs, "", lambda: operator)


def register_family(name: str, find: Callable[[str], SampleOperator]) -> None:
    """Make `torch.ops.microddsp.<name>` for operators told apart by a text, the last argument.
    They take one signal and give one, whose channels may be others for a joint operator."""
    _connect(name, ("x",), 1, ", str text", find)


def _run(operator: SampleOperator, *values: Tensor) -> tuple[Tensor, ...]:
    if values[0].device.type != "cpu":
        return plain(operator, *values)
    *signals, coefficients, state = values
    return tuple(run_forward(operator, signals, coefficients, state, taped=False)[0])


def _differentiate(
    operator: SampleOperator, values: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    if values[0].device.type != "cpu":
        with torch.enable_grad():
            leaves = [v.detach().requires_grad_() for v in values]
            return gradients_of_plain(operator, leaves, cotangents)
    *signals, coefficients, state = values
    _, saved = run_forward(operator, signals, coefficients, state, taped=True)
    return tuple(run_backward(operator, signals, coefficients, saved, cotangents))


def _connect(
    name: str,
    inputs: Sequence[str],
    outputs: int,
    text: str,
    find: Callable[..., SampleOperator],
) -> None:
    """Forward and backward as operators of torch, with shapes and derivatives."""
    count, results = len(inputs) + 2, outputs + 1

    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return _run(find(*arguments[count:]), *arguments[:count])

    def backward(*arguments: Any) -> tuple[Tensor, ...]:
        operator = find(*arguments[count + results :])
        return _differentiate(operator, arguments[:count], arguments[count : count + results])

    def like(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(v.new_empty(v.shape) for v in values)

    known = ", ".join(f"Tensor {given}" for given in (*inputs, "coefficients", "state"))
    cotangents = ", ".join(f"Tensor g{i}" for i in range(results))
    one = torch.library.custom_op(
        f"microddsp::{name}",
        forward,
        mutates_args=(),
        schema=f"({known}{text}) -> ({', '.join(['Tensor'] * results)})",
    )
    two = torch.library.custom_op(
        f"microddsp::{name}_backward",
        backward,
        mutates_args=(),
        schema=f"({known}, {cotangents}{text}) -> ({', '.join(['Tensor'] * count)})",
    )

    def results_like(*arguments: Any) -> tuple[Tensor, ...]:
        operator, x = find(*arguments[count:]), arguments[0]
        shape = (*x.shape[:-2], operator.outputs, x.shape[-1]) if operator.joint else x.shape
        return (*(x.new_empty(shape) for _ in range(outputs)), *like(arguments[count - 1]))

    one.register_fake(results_like)
    two.register_fake(lambda *a: like(*a[:count]))

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:count])
        ctx.text = inputs[count:]

    def differentiate_op(ctx: Any, *cotangents: Tensor) -> Any:
        values = ctx.saved_tensors
        if torch.is_grad_enabled() and not traced(*values):
            gradients = plain_backward(find(*ctx.text), values, cotangents)
        else:
            gradients = two(*values, *cotangents, *ctx.text)
        return (*gradients, *(None for _ in ctx.text))

    one.register_autograd(differentiate_op, setup_context=setup)
