"""Learnable curves and recordings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, positive, show
from microddsp.dsp.filter import Positive
from microddsp.dsp.parameters import Number
from microddsp.errors import ParameterError


class Table(Block):
    """A learnable curve: the input is looked up, straight lines join the values.

    Args:
        values: (length,) for all channels, or (channels, length): the curve at evenly spaced
            inputs from `low` to `high`, two or more. Beyond them it stays at its ends.
        low, high: Inputs of the first and the last value; by default their positions,
            0 and length - 1.

    Raises:
        ParameterError: Fewer than two values, not finite, or not low < high.
    """

    def __init__(
        self,
        values: np.ndarray | Sequence[float] | Tensor,
        *,
        low: float = 0.0,
        high: float | None = None,
    ) -> None:
        super().__init__()
        self.values = torch.nn.Parameter(_numbers(values, 2, "Table"))
        self.low = float(low)
        self.high = float(self.values.shape[-1] - 1 if high is None else high)
        if not -np.inf < self.low < self.high < np.inf:
            raise ParameterError(f"low must be below high, got {low} and {high}", where="Table")

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        scale = (self.values.shape[-1] - 1) / (self.high - self.low)
        position = x if self.low == 0.0 else x - self.low
        if scale != 1.0:
            position = position * scale
        return relax_ops.table(position, self.values.to(x)), state

    def extra_repr(self) -> str:
        return f"values={tuple(self.values.shape)}, low={self.low:g}, high={self.high:g}"


class Waveform(Block):
    """Play a recording; it starts where the input rises above 0.5, and starts anew there.

    Args:
        samples: (length,) for all channels, or (channels, length), two or more; learnable.
        speed: Recorded samples per output sample, positive: 1 as it was, 0.5 an octave lower; one
            or one per channel.
        loop: Play round and round, from the first sample on; else once, then zeros.

    Raises:
        ParameterError: Fewer than two samples, not finite, or a speed that is not positive.
    """

    def __init__(
        self,
        samples: np.ndarray | Sequence[float] | Tensor,
        *,
        speed: Number = 1.0,
        loop: bool = False,
    ) -> None:
        super().__init__()
        self.samples = torch.nn.Parameter(_numbers(samples, 2, "Waveform"))
        self.rate = Positive(positive("speed", speed, "Waveform"))
        self.loop = bool(loop)

    @property
    def speed(self) -> Tensor:
        """Recorded samples per output sample."""
        return self.rate()

    def design(self) -> dict[str, Tensor]:
        speed, length = self.speed, float(self.samples.shape[-1])
        whole = torch.floor(speed).detach()
        part = speed - whole
        # whole rounds go nowhere; beyond the end there is nothing
        whole = torch.remainder(whole, length) if self.loop else whole.clamp(max=length)
        ends = (1.0, -length) if self.loop else (0.0, length)
        parts = [torch.full_like(speed, value) for value in (length - 0.5, *ends)]
        return {"coefficients": torch.stack([whole, part, *parts], -1)}

    def initial_state(self, x: Tensor) -> State:
        start = torch.as_tensor(self.start_of("place")).to(x)
        return {"place": start.expand(*x.shape[:-1], 3).contiguous()}

    def start_of(self, key: str) -> float | Tensor:
        # one that does not play stands at the silence after the last sample
        return torch.tensor([0.0 if self.loop else float(self.samples.shape[-1]), 0.0, 0.0])

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        coefficients = self.designed("coefficients").to(x)
        index, share, following = relax_ops.player(x, coefficients, state["place"])
        # behind the last sample: the first again, or the silence in which it rests
        end = self.samples[..., :1] if self.loop else torch.zeros_like(self.samples[..., :2])
        values = torch.cat([self.samples, end], -1)
        return relax_ops.between(index, share, values.to(x)), {"place": following}

    def extra_repr(self) -> str:
        return f"samples={tuple(self.samples.shape)}, speed={show(self.speed)}, loop={self.loop}"


def _numbers(values: np.ndarray | Sequence[float] | Tensor, least: int, where: str) -> Tensor:
    numbers = torch.as_tensor(np.array(values, dtype="float32"))
    if numbers.dim() not in (1, 2) or numbers.shape[-1] < least or not numbers.shape[0]:
        raise ParameterError(
            f"needs (length,) or (channels, length) with {least} numbers or more, "
            f"got {tuple(numbers.shape)}",
            where=where,
        )
    if not bool(torch.isfinite(numbers).all()):
        raise ParameterError("values are not finite", where=where)
    return numbers
