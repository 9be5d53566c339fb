"""The table of sample-wise operators: one step each, from which everything else is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from microddsp.relax_ops.expression import Step


@dataclass(frozen=True, slots=True)
class SampleOperator:
    """A recursive operator defined by what it does to one sample.

    `step(count)` gives the step for `count` parameters of a channel. Parameters are flattened
    row by row, states too; `parameter_rank` is the rank of parameters that all channels share
    (one more if every channel has its own), `state_shape(count)` the shape of a channel's state.
    `inputs` names the signals that go in, all of one shape; `outputs` come out, of that shape too.
    """

    name: str
    step: Callable[[int], Step]
    parameter_rank: int
    state_shape: Callable[[int], tuple[int, ...]]
    inputs: tuple[str, ...] = ("x",)
    outputs: int = 1


SAMPLE_OPERATORS: dict[str, SampleOperator] = {}


def define(operator: SampleOperator) -> SampleOperator:
    """Add an operator to the table.

    Raises:
        ValueError: The name is taken.
    """
    if operator.name in SAMPLE_OPERATORS:
        raise ValueError(f"sample operator {operator.name} is defined twice")
    SAMPLE_OPERATORS[operator.name] = operator
    return operator
