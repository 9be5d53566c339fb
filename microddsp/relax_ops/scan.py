"""A recursion over tensors in torch: sample by sample, exported as torch's own scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx
from torch._guards import tracing
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import _disable_current_modes

from microddsp.relax_ops.step_graph import Flat, trace, zeros_for
from microddsp.relax_ops.torch_operator import traced

# Per body: the same for a batch of so many signals (0: none), for torch's scan or for a plain loop.
_FORMS: WeakKeyDictionary[fx.GraphModule, dict[tuple[int, bool], fx.GraphModule]]
_FORMS = WeakKeyDictionary()


def scan(
    body: fx.GraphModule, x: Tensor, states: Sequence[Tensor], coefficients: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Run `body(*states, sample, *coefficients) -> (*next states, output)` along a signal.

    Args:
        body: A step of one signal without batch.
        x: (..., channels, samples).
        states: (..., *shape) each.
        coefficients: Without batch.

    Returns:
        The outputs (..., channels out, samples), and the states after the last sample.
    """
    batch = x.shape[:-2]
    if not x.numel():
        output = next(n for n in body.graph.nodes if n.op == "output").args[0][-1]
        return x.new_empty(*batch, *output.meta["val"].shape, x.shape[-1]), list(states)
    if len(batch) > 1 or batch.numel() == 1 == len(batch):
        rows = () if batch.numel() == 1 else (batch.numel(),)
        flat = [s.reshape(*rows, *s.shape[len(batch) :]) for s in (x, *states)]
        y, after = scan(body, flat[0], flat[1:], coefficients)
        y, *after = (v.reshape(*batch, *v.shape[len(rows) :]) for v in (y, *after))
        return y, after
    steps, carried = x.movedim(-1, 0), list(states)
    exported = traced(x, *states, *coefficients)
    form = _form(body, batch.numel() if batch else 0, len(states), apart=exported)
    if exported:
        *carried, y = torch.ops.higher_order.scan(
            form, tuple(carried), (steps,), tuple(coefficients)
        )
        return y.movedim(0, -1), carried
    outputs = []
    step = form.forward  # a module's call would cost as much as an operator
    for sample in steps.unbind(0):
        *carried, output = step(*carried, sample, *coefficients)
        outputs.append(output)
    return torch.stack(outputs, -1), carried


def along(cell: Flat, x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor]) -> Any:
    """`scan` with a step that is not traced yet: `cell(sample, states, parameters)`."""
    batch = x.shape[:-2]
    first = [s.flatten(0, len(batch) - 1)[0] if batch else s for s in (x, *states)]
    graph = trace(cell, first[0][:, 0], first[1:], parameters)
    return scan(graph.body, x, states, list(graph.prelude(*parameters)))


def _form(body: fx.GraphModule, batch: int, states: int, *, apart: bool) -> fx.GraphModule:
    """The body for a batch. Traced once: `vmap` itself would cost more than the step.

    `apart`: torch's scan wants results that share no memory with arguments or each other.
    """
    if not batch and not apart:
        return body
    forms = _FORMS.setdefault(body, {})
    if (batch, apart) not in forms:
        with _disable_current_modes(), tracing(None):
            arguments = zeros_for(body)
            changing = states + 1

            def form(*values: Tensor) -> list[Tensor]:
                return [value.clone() if apart else value for value in body(*values)]

            function: Callable[..., Any] = form
            if batch:
                dims = [0] * changing + [None] * (len(arguments) - changing)
                function = torch.vmap(form, tuple(dims))
                for i in range(changing):
                    arguments[i] = arguments[i].expand(batch, *arguments[i].shape).clone()
            forms[batch, apart] = make_fx(function)(*arguments)
    return forms[batch, apart]
