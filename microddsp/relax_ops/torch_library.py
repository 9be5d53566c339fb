"""Sample-wise operators as `torch.ops.microddsp.<name>`, for exports and compilers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from microddsp.relax_ops.sample_operator import SampleOperator
from microddsp.relax_ops.torch_operator import backward as run_backward
from microddsp.relax_ops.torch_operator import forward as run_forward
from microddsp.relax_ops.torch_operator import plain, plain_backward, traced


def register(operator: SampleOperator) -> None:
    """Make `torch.ops.microddsp.<name>` and its backward operator."""

    def forward(x: Tensor, coefficients: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return _run(operator, x, coefficients, state)

    def backward(
        x: Tensor, coefficients: Tensor, state: Tensor, gy: Tensor, gstate: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _differentiate(operator, x, coefficients, state, gy, gstate)

    _connect(operator.name, forward, backward, lambda: operator)


def register_family(name: str, find: Callable[[str], SampleOperator]) -> None:
    """Make `torch.ops.microddsp.<name>` for operators told apart by a text, the last argument."""

    def forward(x: Tensor, coefficients: Tensor, state: Tensor, text: str) -> tuple[Tensor, Tensor]:
        return _run(find(text), x, coefficients, state)

    def backward(
        x: Tensor, coefficients: Tensor, state: Tensor, gy: Tensor, gstate: Tensor, text: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _differentiate(find(text), x, coefficients, state, gy, gstate)

    _connect(name, forward, backward, find)


def _run(
    operator: SampleOperator, x: Tensor, coefficients: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    if x.device.type != "cpu":
        return plain(operator, x, coefficients, state)
    y, following, _ = run_forward(operator, x, coefficients, state, taped=False)
    return y, following


def _differentiate(
    operator: SampleOperator,
    x: Tensor,
    coefficients: Tensor,
    state: Tensor,
    gy: Tensor,
    gstate: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    if x.device.type != "cpu":
        with torch.enable_grad():
            leaves = [v.detach().requires_grad_() for v in (x, coefficients, state)]
            results = plain(operator, *leaves)
        gradients = torch.autograd.grad(
            results, leaves, (gy, gstate), allow_unused=True, materialize_grads=True
        )
        return gradients[0], gradients[1], gradients[2]
    _, _, saved = run_forward(operator, x, coefficients, state, taped=True)
    return run_backward(operator, x, coefficients, saved, gy, gstate)


def _connect(
    name: str,
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    find: Callable[..., SampleOperator],
) -> None:
    """Both as operators of torch, with shapes and derivatives; what follows the state is text."""
    one = torch.library.custom_op(f"microddsp::{name}", forward, mutates_args=())
    two = torch.library.custom_op(f"microddsp::{name}_backward", backward, mutates_args=())
    one.register_fake(
        lambda x, coefficients, state, *_: (x.new_empty(x.shape), state.new_empty(state.shape))
    )
    two.register_fake(
        lambda x, coefficients, state, *_: (
            x.new_empty(x.shape),
            coefficients.new_empty(coefficients.shape),
            state.new_empty(state.shape),
        )
    )

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.text = inputs[3:]

    def differentiate_op(ctx: Any, gy: Tensor, gstate: Tensor) -> Any:
        x, coefficients, state = ctx.saved_tensors
        if torch.is_grad_enabled() and not traced(x, coefficients, state):
            gradients = plain_backward(find(*ctx.text), x, coefficients, state, gy, gstate)
        else:
            gradients = two(x, coefficients, state, gy, gstate, *ctx.text)
        return (*gradients, *(None for _ in ctx.text))

    one.register_autograd(differentiate_op, setup_context=setup)
