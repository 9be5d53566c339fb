"""Lower sample rate."""

from __future__ import annotations

from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, whole


class Decimate(Block):
    """Keep the first of every `factor` samples.

    It does not filter: put a `Lowpass` below half the new sample rate before it. Chunks must be
    multiples of the factor.

    Raises:
        ParameterError: Not a positive whole number.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = whole("factor", factor, "Decimate")

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return relax_ops.decimate(x, self.factor), state

    def extra_repr(self) -> str:
        return f"factor={self.factor}"
