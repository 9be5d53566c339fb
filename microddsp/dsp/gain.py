"""A learnable gain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from microddsp.dsp.block import Block, State, show
from microddsp.errors import ParameterError, SignalError


class Gain(Block):
    """Multiply by a number, or by one per channel; negative ones invert.

    Raises:
        ParameterError: Not finite.
    """

    def __init__(self, gain: float | Sequence[float] = 1.0) -> None:
        super().__init__()
        value = torch.as_tensor(gain, dtype=torch.float32)
        if value.dim() > 1 or not bool(torch.isfinite(value).all()):
            raise ParameterError(
                f"gain is one finite number or one per channel, got {gain}", where="Gain"
            )
        self.gain = torch.nn.Parameter(value)

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        gain = self.gain.to(x)
        if gain.dim() and gain.shape[0] != x.shape[-2]:
            raise SignalError(
                f"{gain.shape[0]} gains do not fit {x.shape[-2]} channels", where="Gain"
            )
        return x * (gain[:, None] if gain.dim() else gain), state

    def extra_repr(self) -> str:
        return f"gain={show(self.gain)}"
