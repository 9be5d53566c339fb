"""A learnable offset."""

from __future__ import annotations

from torch import Tensor

from microddsp.dsp.block import Block, State, show
from microddsp.dsp.parameters import Number, free
from microddsp.errors import SignalError


class Offset(Block):
    """Add a number, or one per channel.

    Raises:
        ParameterError: Not finite.
    """

    def __init__(self, offset: Number = 0.0) -> None:
        super().__init__()
        self.offset = free("offset", offset, "Offset")

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        offset = self.offset.to(x)
        if offset.dim() and offset.shape[0] != x.shape[-2]:
            raise SignalError(
                f"{offset.shape[0]} offsets do not fit {x.shape[-2]} channels", where="Offset"
            )
        return x + (offset[:, None] if offset.dim() else offset), state

    def extra_repr(self) -> str:
        return f"offset={show(self.offset)}"
