"""A recursion over tensors in torch: sample by sample, exported as torch's own scan."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx
from torch._guards import tracing
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import _disable_current_modes

from microddsp.relax_ops.torch_operator import traced

# Per body: the same for a batch of so many signals; -1 is the form that torch's scan takes.
_FORMS: WeakKeyDictionary[fx.GraphModule, dict[int, fx.GraphModule]] = WeakKeyDictionary()


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
    batch, samples = x.shape[:-2], x.shape[-1]
    count = batch.numel()
    single = not batch
    steps = x.reshape(count, *x.shape[-2:]).movedim(-1, 0) if not single else x.movedim(-1, 0)
    carried = [s if single else s.reshape(count, *s.shape[len(batch) :]) for s in states]
    if traced(x, *states, *coefficients):
        form = _form(body, -1 if single else count, len(states))
        results = torch.ops.higher_order.scan(form, tuple(carried), (steps,), tuple(coefficients))
        *carried, y = results
    else:
        form = body if single else _form(body, count, len(states))
        outputs = []
        step = form.forward  # a module's call would cost as much as an operator
        for sample in steps.unbind(0):
            *carried, output = step(*carried, sample, *coefficients)
            outputs.append(output)
        if outputs:
            y = torch.stack(outputs)
        else:
            y = form(*carried, x.new_zeros(steps.shape[1:]), *coefficients)[-1][None][:0]
    y = y.movedim(0, -1)
    y = y if single else y.reshape(*batch, y.shape[-2], samples)
    return y, [c if single else c.reshape(*batch, *c.shape[1:]) for c in carried]


def _form(body: fx.GraphModule, batch: int, states: int) -> fx.GraphModule:
    """The body for a batch. Traced once: `vmap` itself would cost more than the step."""
    forms = _FORMS.setdefault(body, {})
    if batch not in forms:
        examples = [n.meta["val"] for n in body.graph.nodes if n.op == "placeholder"]
        with _disable_current_modes(), tracing(None):
            zeros = [torch.zeros(tuple(v.shape), dtype=v.dtype) for v in examples]
            changing, rest = zeros[: states + 1], zeros[states + 1 :]

            def separate(*values: Tensor) -> list[Tensor]:
                # torch's scan wants results that share no memory with arguments or each other
                return [value.clone() for value in body(*values)]

            if batch < 0:
                forms[batch] = make_fx(separate)(*zeros)
            else:
                dims = (*(0 for _ in changing), *(None for _ in rest))
                many = [v.expand(batch, *v.shape).clone() for v in changing]
                forms[batch] = make_fx(torch.vmap(separate, dims))(*many, *rest)
    return forms[batch]
