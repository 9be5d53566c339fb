"""A delay driven by another signal."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, positive, zeros
from microddsp.dsp.driving import driving


class SweptDelay(Block):
    """A delay whose length is a signal: `y = delay(x, delay_s)`, for vibrato, chorus, Doppler.

    The delay is a number for each sample, in seconds; what lies between two samples is read on the
    straight line between them. Both signals have exact gradients: that of the delay is the slope
    of the signal.

        sway = dsp.Oscillator(5.0, sample_rate_hz=8000)              # learnable
        vibrato = dsp.SweptDelay(0.01, sample_rate_hz=8000)
        y = vibrato(x, 0.004 + 0.001 * sway(0 * x))

    Args:
        max_delay_s: What the delay is held below, rounded up to whole samples; the device keeps
            that much of the past. Beyond it and below zero, the gradient of the delay is zero.
        sample_rate_hz: Samples per second.

    Raises:
        ParameterError: A value outside its range.

    Source: J. Dattorro, "Effect design 2: Delay-line modulation and chorus", Journal of the Audio
    Engineering Society 45 (1997).
    """

    def __init__(self, max_delay_s: float, *, sample_rate_hz: float) -> None:
        super().__init__()
        self.sample_rate_hz = float(positive("sample_rate_hz", sample_rate_hz, "SweptDelay"))
        self.max_delay_s = float(positive("max_delay_s", max_delay_s, "SweptDelay"))
        # a little less, so that 0.01 s of 100 Hz is one sample and not two
        self.max_samples = math.ceil(self.max_delay_s * self.sample_rate_hz * (1 - 1e-9))

    def initial_state(self, x: Tensor) -> State:
        return {
            "line": zeros(x, self.max_samples + 2),
            "place": zeros(x, 1, dtype=torch.int32),
        }

    def forward(self, x: Tensor, delay_s: Tensor) -> Tensor:  # type: ignore[override]
        """Delay `x`.

        Args:
            x: (..., channels, samples).
            delay_s: Seconds for each sample, like x, or one channel for all.

        Raises:
            SignalError: A delay of another shape or type.
        """
        self.check_signal(x)
        return self.run(x, partial(self._delay, driving("delay_s", delay_s, x, "SweptDelay")))

    def _delay(self, delay_s: Tensor, x: Tensor, state: State) -> tuple[Tensor, State]:
        samples = delay_s * (self.sample_rate_hz or 0.0)
        y, line, place = relax_ops.swept_delay(x, samples, state["line"], state["place"])
        return y, {"line": line, "place": place}

    @property
    def settle_samples(self) -> int:
        return self.max_samples

    def extra_repr(self) -> str:
        return f"max_delay_s={self.max_delay_s:g}, sample_rate_hz={self.sample_rate_hz:g}"
