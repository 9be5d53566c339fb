"""A step run by torch, sample by sample: any device, any float type, differentiable. Slow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from microddsp.relax_ops.expression import Step, in_order

_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "lt": torch.lt,
    "gt": torch.gt,
    "le": torch.le,
    "ge": torch.ge,
    "eq": torch.eq,
    "ne": torch.ne,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "not": torch.logical_not,
    "fmod": torch.fmod,
    "max": torch.maximum,
    "min": torch.minimum,
    "floor": torch.floor,
    "neg": torch.neg,
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "exp": torch.exp,
    "log": torch.log,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "tanh": torch.tanh,
    "trunc": torch.trunc,
    "select": torch.where,
}


def run(
    step: Step, signals: Sequence[Tensor], parameters: Tensor, state: Tensor
) -> tuple[Tensor, ...]:
    """Run a step over the last axis.

    Args:
        signals: (..., channels, samples) each.
        parameters: (count,) shared or (channels, count).
        state: (..., channels, count of states).

    Returns:
        The outputs, like signals, and the state after the last sample, like `state`.
    """
    params = {id(p): parameters[..., i] for i, p in enumerate(step.params)}
    states = list(state.unbind(-1))
    order = in_order([*step.outputs, *step.next_states])
    outputs = []
    like = signals[0]
    for samples in zip(*(x.unbind(-1) for x in signals), strict=True):
        values: dict[int, Tensor] = dict(params)
        values.update({id(x): v for x, v in zip(step.inputs, samples, strict=True)})
        values.update({id(z): v for z, v in zip(step.states, states, strict=True)})
        for expr in order:
            if id(expr) in values:
                continue
            if expr.op == "const":
                values[id(expr)] = like.new_tensor(expr.value)
            elif expr.op == "to_float":
                values[id(expr)] = values[id(expr.args[0])].to(like.dtype)
            else:
                values[id(expr)] = _OPERATIONS[expr.op](*(values[id(a)] for a in expr.args))
        outputs.append([values[id(y)].expand_as(samples[0]) for y in step.outputs])
        states = [values[id(z)].expand_as(samples[0]) for z in step.next_states]
    results = [torch.stack(y, -1) for y in zip(*outputs, strict=True)]
    return (*(results or [like.clone() for _ in step.outputs]), torch.stack(states, -1))
