"""The design of a block for other numbers than its own, on the host and as a graph."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from microddsp.dsp.block import Block
from microddsp.dsp.filter import Filter, Frequency, Positive
from microddsp.dsp.parameters import Between

PARAMETRISED = (Frequency, Positive, Between)


class Trial:
    """A copy of a block whose numbers are given in physical units, and stay where they are when
    another one changes."""

    def __init__(self, block: Block) -> None:
        self.block = copy.deepcopy(block)
        self.given: dict[str, _Given] = {}
        for name, child in list(self.block._modules.items()):
            if isinstance(child, PARAMETRISED):
                self.given[name] = _Given(child)
                self.block._modules[name] = self.given[name]
        with torch.no_grad():
            self.before = self.block.design()  # each number is now what it was

    def give(self, source: str, value: Tensor) -> None:
        if source in self.given:
            self.given[source].cell[:] = [value]
            return
        self.block._parameters.pop(source, None)
        self.block.__dict__[source] = value

    def design(self) -> tuple[dict[str, Tensor], Tensor]:
        """The design, and whether all numbers are in their ranges."""
        for given in self.given.values():
            given.valid.clear()
        found = self.block.design()
        valid = torch.ones((), dtype=torch.bool)
        for given in self.given.values():
            for condition in given.valid:
                valid = torch.logical_and(valid, condition)
        return found, valid


class DesignOf(torch.nn.Module):
    """A block's design as a function of its tunable numbers: float32 values of the `sources` in,
    the items `keys` as float32 out, then 1 if all is valid and 0 if not."""

    def __init__(self, block: Block, sources: Sequence[str], keys: Sequence[str]) -> None:
        super().__init__()
        trial = Trial(block)
        kind = block.kind if isinstance(block, Filter) else None

        def evaluate(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
            for source, value in zip(sources, values, strict=True):
                trial.give(source, value.double())
            found, valid = trial.design()
            items = [found[key].float() for key in keys]
            if kind is not None and "coefficients" in keys:
                rounded = items[keys.index("coefficients")].double()
                valid = torch.logical_and(valid, _decays(kind, rounded))
            return (*items, valid.to(torch.int32))

        # behind a function: a trace must not see the copy as a part of this module
        self.evaluate = evaluate

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        return self.evaluate(values)


class _Given(torch.nn.Module):
    """Stands for a parametrised number: a value from outside, and the range it was meant for."""

    def __init__(self, original: torch.nn.Module) -> None:
        super().__init__()
        self.kept = [original]  # not a submodule: its parameter is not asked any more
        self.cell: list[Tensor] = []
        self.valid: list[Tensor] = []

    def forward(self, above: Tensor | float = 0.0) -> Tensor:
        original = self.kept[0]
        if not self.cell:
            self.cell.append(
                original(above).detach() if isinstance(original, Frequency) else original().detach()
            )
        (value,) = self.cell
        if isinstance(original, Frequency):
            low: Tensor | float = above
            high: float | None = original.nyquist
        elif isinstance(original, Between):
            low, high = original.low, original.high
        else:
            low, high = 0.0, None
        self.valid.append((value > low).all())
        if high is not None:
            self.valid.append((value < high).all())
        return value


def _decays(kind: str, c: Tensor) -> Tensor:
    """Whether a filter is stable, without complex numbers: the triangle of a1 and a2."""
    if kind == "first_order":
        return (c[..., 2].abs() < 1).all()
    if kind == "svf":
        d1, d2, d3 = c[..., 0], c[..., 1], c[..., 2]
        a1 = -((2 * d1 - 1) + (1 - 2 * d3))
        a2 = (2 * d1 - 1) * (1 - 2 * d3) + 4 * d2 * d2
    else:
        a1, a2 = c[..., 3], c[..., 4]
    return torch.logical_and((a2 < 1).all(), (a1.abs() < 1 + a2).all())
