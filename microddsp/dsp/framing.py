"""Overlapping frames: where a stream meets layers that look at a stretch of time."""

from __future__ import annotations

from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, whole, zeros
from microddsp.errors import ParameterError


class Overlapping(Block):
    """What cuts a signal into frames of `length` samples, one every `hop`; the state is the past.

    Raises:
        ParameterError: Not positive whole numbers, or hop longer than length.
    """

    length: int
    hop: int

    def _set_hop(self, length: int, hop: int) -> None:
        where = type(self).__name__
        self.length = whole("length", length, where)
        self.hop = whole("hop", hop, where)
        if self.hop > self.length:
            raise ParameterError(
                f"hop {hop} is longer than the frame {length}: samples would be lost",
                where=where,
                hint="use Decimate, or a longer frame",
            )

    def initial_state(self, x: Tensor) -> State:
        return {"line": zeros(x, self.length - self.hop)}

    def cut(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x (..., channels, samples) as frames (..., frames, channels, length)."""
        y, line = relax_ops.frames(x, self.length, self.hop, state["line"])
        return y, {"line": line}

    @property
    def settle_samples(self) -> int:
        return self.length - self.hop


class Frames(Overlapping):
    """Cut a signal (..., channels, samples) into frames (..., frames, channels, length).

    Frame m holds the `length` samples that end at sample (m + 1) * hop - 1; before the start of
    the signal there are zeros. Layers after it see each frame as one item of a batch, as
    `Conv1d` and `Linear` expect. Chunks must be multiples of the hop.

    Raises:
        ParameterError: Not positive whole numbers, or hop longer than length.
    """

    def __init__(self, length: int, hop: int | None = None) -> None:
        super().__init__()
        self._set_hop(length, length if hop is None else hop)

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return self.cut(x, state)

    def extra_repr(self) -> str:
        return f"length={self.length}, hop={self.hop}"
