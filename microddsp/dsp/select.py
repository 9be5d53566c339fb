"""One of several branches: learned as a mixture, compiled as a choice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from microddsp.dsp.block import DESIGN_PREFIX, Block, State, positive
from microddsp.dsp.filter import exact
from microddsp.errors import ParameterError


class Select(Block):
    """Learn which of several branches to use.

    In training the output is the sum of all branches, weighted by the softmax of `logits` over
    `temperature`; lower the temperature on the way to a choice. After `eval()`, and in a compiled
    model, only the branch of the largest logit runs: the others are not in the C.

    Args:
        branches: Modules with outputs of one shape; each has its own state.
        temperature: Positive; may be set later.

    Raises:
        ParameterError: Fewer than two branches, or no module.
    """

    def __init__(self, branches: Sequence[torch.nn.Module], *, temperature: float = 1.0) -> None:
        super().__init__()
        given = list(branches)
        if len(given) < 2 or not all(isinstance(b, torch.nn.Module) for b in given):
            raise ParameterError("branches are two or more modules", where="Select")
        self.branches = torch.nn.ModuleList(given)
        self.logits = torch.nn.Parameter(torch.zeros(len(given)))
        self.temperature = float(positive("temperature", temperature, "Select"))

    @property
    def shares(self) -> Tensor:
        """How much of each branch is in the output in training."""
        return torch.softmax(exact(self.logits) / self.temperature, 0)

    @property
    def choice(self) -> int:
        """The branch that runs after training."""
        fixed = self._buffers.get(DESIGN_PREFIX + "choice")
        return int(self.logits.argmax()) if fixed is None else fixed.shape[0]

    def design(self) -> dict[str, Tensor]:
        # a tracer knows shapes but no values: the choice is the length of this
        return {"choice": torch.empty(self.choice, 0)}

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if not self.training or DESIGN_PREFIX + "choice" in self._buffers:
            y: Tensor = self.branches[self.choice](x)
            return y, state
        shares = self.shares.to(x)
        total = shares[0] * self.branches[0](x)
        for i, branch in enumerate(self.branches[1:], 1):
            total = total + shares[i] * branch(x)
        return total, state

    def extra_repr(self) -> str:
        shares = ", ".join(
            f"{type(branch).__name__}: {share:.3g}"
            for branch, share in zip(self.branches, self.shares.tolist(), strict=True)
        )
        return f"{shares}, temperature={self.temperature:g}"
