"""Hyper-parameters as parameters: how many filters, and how wide a band, learned with a cost.

    objective = lambda module, batch: loss(module, batch) + 0.01 * relaxations.cost(module)

After training `prune` removes the filters whose gates have closed, and `sample_rate.lower_rate`
puts a decimation behind a band limit that has come down: the compiled C shrinks.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from microddsp.dsp.block import show
from microddsp.dsp.butterworth import Lowpass
from microddsp.dsp.filter import exact, form_name
from microddsp.dsp.gain import Gain
from microddsp.errors import ParameterError

# A gate is a stretched sigmoid, cut at 0 and 1: it reaches both ends, and stays there.
_STRETCH = 0.1


class GatedSum(torch.nn.Module):
    """The sum of branches, each behind a gate between 0 and 1 that is learned.

    Args:
        branches: Modules with outputs of one shape.
        start: Where all gates start, inside (0, 1).

    Raises:
        ParameterError: No branch, or a start outside its range.
    """

    def __init__(self, branches: Sequence[torch.nn.Module], *, start: float = 0.5) -> None:
        super().__init__()
        given = list(branches)
        if not given or not all(isinstance(branch, torch.nn.Module) for branch in given):
            raise ParameterError("branches are one or more modules", where="GatedSum")
        if not 0.0 < start < 1.0:
            raise ParameterError(f"start must be in (0, 1), got {start}", where="GatedSum")
        self.branches = torch.nn.ModuleList(given)
        share = (start + _STRETCH) / (1 + 2 * _STRETCH)
        self.raw = torch.nn.Parameter(torch.full((len(given),), math.log(share / (1 - share))))

    @property
    def gates(self) -> Tensor:
        """(branches,), from closed (0) to open (1), float64."""
        share = torch.sigmoid(exact(self.raw))
        return ((1 + 2 * _STRETCH) * share - _STRETCH).clamp(0, 1)

    def cost(self) -> Tensor:
        """How many branches are open."""
        return self.gates.sum()

    def forward(self, x: Tensor) -> Tensor:
        gates = self.gates.to(x)
        total: Tensor = gates[0] * self.branches[0](x)
        for gate, branch in zip(gates[1:], list(self.branches)[1:], strict=True):
            total = total + gate * branch(x)
        return total

    def extra_repr(self) -> str:
        return f"gates={show(self.gates)}"


class Sum(torch.nn.Module):
    """The sum of branches: what `prune` leaves of a `GatedSum`."""

    def __init__(self, branches: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.branches = torch.nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.branches[0](x)
        for branch in list(self.branches)[1:]:
            total = total + branch(x)
        return total


class BandLimit(Lowpass):
    """A low-pass whose cut-off costs: what is behind it needs a sample rate of twice that.

    Arguments as `dsp.Lowpass`. `sample_rate.lower_rate` makes use of what it has learned.
    """

    def cost(self) -> Tensor:
        """The cut-off as a share of half the sample rate."""
        assert self.sample_rate_hz is not None
        return (2 * self.cutoff_hz / self.sample_rate_hz).sum()

    def lowpass(self) -> Lowpass:
        """The same filter, without the cost."""
        assert self.sample_rate_hz is not None
        plain = Lowpass(
            self.cutoff_hz.tolist(),
            self.order,
            sample_rate_hz=self.sample_rate_hz,
            form=form_name(self.kind),
            initial=self.initial,
        )
        plain.load_state_dict(self.state_dict())  # to the last digit
        plain.cutoff.requires_grad_(self.cutoff.raw.requires_grad)
        return plain.train(self.training)


def cost(module: torch.nn.Module) -> Tensor:
    """The costs of all gates and band limits of a module.

    Raises:
        ParameterError: There are none.
    """
    costs = [inner.cost() for inner in module.modules() if isinstance(inner, GatedSum | BandLimit)]
    if not costs:
        raise ParameterError(
            "there is no GatedSum and no BandLimit: nothing has a cost", where=type(module).__name__
        )
    return torch.stack(costs).sum()


def prune(module: torch.nn.Module, *, below: float = 0.01) -> torch.nn.Module:
    """A copy in which the branches whose gates are at or below `below` are gone.

    What is left of a gate becomes a `Gain`, learnable; a gate that is fully open costs nothing.

    Raises:
        ParameterError: All gates of a sum are closed; names it.
    """
    pruned = copy.deepcopy(module)
    if isinstance(pruned, GatedSum):
        return _open_branches(pruned, below, "")
    for path, inner in list(pruned.named_modules()):
        for name, child in inner.named_children():
            if isinstance(child, GatedSum):
                where = f"{path}.{name}" if path else name
                inner.register_module(name, _open_branches(child, below, where))
    return pruned


def _open_branches(gated: GatedSum, below: float, where: str) -> torch.nn.Module:
    gates = gated.gates.tolist()
    branches = [
        branch if gate == 1.0 else torch.nn.Sequential(branch, Gain(gate))
        for gate, branch in zip(gates, gated.branches, strict=True)
        if gate > below
    ]
    if not branches:
        raise ParameterError(
            "all gates are closed", where=where or "GatedSum", hint="train with a smaller cost"
        )
    return branches[0] if len(branches) == 1 else Sum(branches)
