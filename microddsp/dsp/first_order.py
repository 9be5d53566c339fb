"""One-pole low-pass and DC blocker."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from microddsp.dsp.block import positive, show
from microddsp.dsp.filter import Filter, Frequency
from microddsp.errors import ParameterError

Number = float | Sequence[float]


class OnePole(Filter):
    """Exponential smoothing: y += (1 - p) (x - y) with p = exp(-2 pi fc/fs).

    Args:
        cutoff_hz: Corner frequency below half the sample rate, or
        time_constant_s: seconds in which a step reaches 63 % (1/(2 pi cutoff_hz)).
        sample_rate_hz: Samples per second.
        initial: "zero" or "first_sample".

    Raises:
        ParameterError: A value outside its range, or not just one of the two.

    Source: S. W. Smith, "The Scientist and Engineer's Guide to DSP", chapter 19.
    """

    kind = "first_order"

    def __init__(
        self,
        cutoff_hz: Number | None = None,
        *,
        time_constant_s: Number | None = None,
        sample_rate_hz: float,
        initial: str = "zero",
    ) -> None:
        super().__init__(sample_rate_hz, initial)
        if (cutoff_hz is None) == (time_constant_s is None):
            raise ParameterError("give cutoff_hz or time_constant_s", where="OnePole")
        if cutoff_hz is None:
            assert time_constant_s is not None
            seconds = positive("time_constant_s", time_constant_s, "OnePole")
            cutoff_hz = (1 / (2 * math.pi * seconds)).tolist()
        self.cutoff = Frequency("cutoff_hz", cutoff_hz, sample_rate_hz, "OnePole")

    @property
    def cutoff_hz(self) -> Tensor:
        """The corner frequency in Hz."""
        return self.cutoff()

    def coefficients(self) -> Tensor:
        assert self.sample_rate_hz is not None
        pole = torch.exp(-2 * torch.pi * self.cutoff_hz / self.sample_rate_hz)
        return torch.stack([1 - pole, torch.zeros_like(pole), -pole], -1)

    def extra_repr(self) -> str:
        return f"cutoff_hz={show(self.cutoff_hz)}, sample_rate_hz={self.sample_rate_hz:g}"


class DCBlocker(Filter):
    """First-order high-pass: y[n] = (1 + p)/2 (x[n] - x[n-1]) + p y[n-1].

    Args:
        cutoff_hz: -3 dB frequency, below half the sample rate.
        sample_rate_hz: Samples per second.
        initial: "zero" or "first_sample" (an offset is then never seen).

    Raises:
        ParameterError: A value outside its range.

    Source: the bilinear transform of s/(s + w); J. O. Smith, "Introduction to Digital Filters".
    """

    kind = "first_order"

    def __init__(
        self, cutoff_hz: Number = 0.5, *, sample_rate_hz: float, initial: str = "zero"
    ) -> None:
        super().__init__(sample_rate_hz, initial)
        self.cutoff = Frequency("cutoff_hz", cutoff_hz, sample_rate_hz, "DCBlocker")

    @property
    def cutoff_hz(self) -> Tensor:
        """The -3 dB frequency in Hz."""
        return self.cutoff()

    def coefficients(self) -> Tensor:
        assert self.sample_rate_hz is not None
        k = torch.tan(torch.pi * self.cutoff_hz / self.sample_rate_hz)
        pole = (1 - k) / (1 + k)
        return torch.stack([(1 + pole) / 2, -(1 + pole) / 2, -pole], -1)

    def extra_repr(self) -> str:
        return f"cutoff_hz={show(self.cutoff_hz)}, sample_rate_hz={self.sample_rate_hz:g}"
