"""A step run by torch, sample by sample: any device, any float type, differentiable. Slow."""

from __future__ import annotations

from collections.abc import Callable

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
    "tanh": torch.tanh,
    "select": torch.where,
}


def run(step: Step, x: Tensor, parameters: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Run a step with one input and one output over the last axis.

    Args:
        x: (..., channels, samples).
        parameters: (count,) shared or (channels, count).
        state: (..., channels, count of states).

    Returns:
        The output, like `x`, and the state after the last sample, like `state`.
    """
    params = {id(p): parameters[..., i] for i, p in enumerate(step.params)}
    states = list(state.unbind(-1))
    order = in_order([*step.outputs, *step.next_states])
    outputs = []
    for sample in x.unbind(-1):
        values: dict[int, Tensor] = dict(params)
        values[id(step.inputs[0])] = sample
        values.update({id(z): v for z, v in zip(step.states, states, strict=True)})
        for expr in order:
            if id(expr) in values:
                continue
            if expr.op == "const":
                values[id(expr)] = x.new_tensor(expr.value)
            elif expr.op == "to_float":
                values[id(expr)] = values[id(expr.args[0])].to(x.dtype)
            else:
                values[id(expr)] = _OPERATIONS[expr.op](*(values[id(a)] for a in expr.args))
        outputs.append(values[id(step.outputs[0])].expand_as(sample))
        states = [values[id(z)].expand_as(sample) for z in step.next_states]
    y = torch.stack(outputs, -1) if outputs else x.clone()
    return y, torch.stack(states, -1)
