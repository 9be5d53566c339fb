"""The table of sample-wise operators: one step each, from which everything else is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from microddsp.relax_ops.expression import Step


@dataclass(frozen=True, slots=True)
class SampleOperator:
    """A recursive operator defined by what it does to one sample.

    `step(count)` gives the step for `count` parameters of a channel. Parameters are flattened
    row by row, states too; `parameter_rank` is the rank of parameters that all channels share
    (one more if every channel has its own), `state_shape(count)` the shape of a channel's state.
    `inputs` names the signals that go in, all of one shape; `outputs` come out, of that shape too.

    A `joint` operator takes one signal, whose channels are the inputs, and gives one, whose
    channels are the outputs; parameters are shared, and the state is that of one channel.
    """

    name: str
    step: Callable[[int], Step]
    parameter_rank: int
    state_shape: Callable[[int], tuple[int, ...]]
    inputs: tuple[str, ...] = ("x",)
    outputs: int = 1
    joint: bool = False

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals that are given."""
        return ("x",) if self.joint else self.inputs

    def apart(self, signals: Sequence[Tensor], count: int) -> list[Tensor]:
        """The inputs in given signals, or, `count` of them, the outputs in results."""
        if not self.joint:
            return list(signals)
        assert signals[0].shape[-2] == count
        return list(signals[0].split(1, -2))

    def together(self, signals: Sequence[Tensor]) -> list[Tensor]:
        """The way back of `apart`."""
        return [torch.cat(list(signals), -2)] if self.joint else list(signals)


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
