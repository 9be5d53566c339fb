"""Where something begins: the rise of a signal's level."""

from __future__ import annotations

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, positive, show, zeros
from microddsp.dsp.filter import Positive
from microddsp.dsp.parameters import Number
from microddsp.dsp.peak_picker import PeakPicker
from microddsp.errors import ParameterError


class OnsetStrength(Block):
    """How much the level rises: spectral flux of the heights of bands, energy flux of one.

    y[n] = mean over channels of max(0, log(1 + gain x[n]) - log(1 + gain x[n - lag])), one channel
    out. Falls count for nothing, nor does an input below zero. Exact gradients.

    Args:
        gain: Positive: inputs below 1 / gain count linearly, above it in logarithms; one or one
            per channel.
        lag_s: How long a rise may take; rounded to samples, at least one.
        sample_rate_hz: Samples of the input per second: those behind a hop, if there was one.

    Raises:
        ParameterError: A value outside its range.

    Source: S. Dixon, "Onset detection revisited", DAFx 2006, 2.1; logarithm and lag after
    S. Boeck, F. Krebs, M. Schedl, "Evaluating the online capabilities of onset detection methods",
    ISMIR 2012, 2.2.
    """

    def __init__(self, gain: Number = 1.0, *, lag_s: float, sample_rate_hz: float) -> None:
        super().__init__()
        where = "OnsetStrength"
        self.sample_rate_hz = float(positive("sample_rate_hz", sample_rate_hz, where))
        self.compression = Positive(positive("gain", gain, where))
        self.lag_samples = round(float(positive("lag_s", lag_s, where)) * self.sample_rate_hz)
        if self.lag_samples < 1:
            raise ParameterError(
                f"lag_s must be at least a sample, {1 / self.sample_rate_hz:g} s, got {lag_s}",
                where=where,
            )

    @property
    def gain(self) -> Tensor:
        """Inputs above its inverse count in logarithms."""
        return self.compression()

    def design(self) -> dict[str, Tensor]:
        return {"gain": self.gain[..., None]}

    def initial_state(self, x: Tensor) -> State:
        return {"line": zeros(x, self.lag_samples)}

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        level = torch.log(torch.relu(x) * self.designed("gain").to(x) + 1.0)
        before, line = relax_ops.delay(level, self.lag_samples, state["line"])
        rise = torch.relu(level - before)
        y = rise if x.shape[-2] == 1 else rise.mean(-2, keepdim=True)
        return y, {"line": line}

    @property
    def settle_samples(self) -> int:
        return self.lag_samples

    def extra_repr(self) -> str:
        assert self.sample_rate_hz is not None
        return (
            f"gain={show(self.gain)}, lag_s={self.lag_samples / self.sample_rate_hz:g}, "
            f"sample_rate_hz={self.sample_rate_hz:g}"
        )


class OnsetDetector(Block):
    """Events where something begins, from an envelope or the heights of bands, (channels, time).

    `OnsetStrength`, then `PeakPicker`: a 0/1 signal, one channel, `delay_samples` late.

    Args:
        strength: How much the level rises.
        picker: Where that has its peaks.

    Raises:
        ParameterError: Two sample rates, or a picker that looks back less than a rise may take:
            it would take the start of a stream for an onset.
    """

    def __init__(self, strength: OnsetStrength, picker: PeakPicker) -> None:
        super().__init__()
        if strength.sample_rate_hz != picker.sample_rate_hz:
            raise ParameterError(
                f"sample_rate_hz is {strength.sample_rate_hz} and {picker.sample_rate_hz}",
                where="OnsetDetector",
            )
        if picker.look_back_samples < strength.lag_samples:
            raise ParameterError(
                f"the picker looks back {picker.look_back_samples} samples, a rise may take "
                f"{strength.lag_samples}",
                where="OnsetDetector",
            )
        self.sample_rate_hz = strength.sample_rate_hz
        self.strength = strength
        self.picker = picker

    @property
    def delay_samples(self) -> int:
        """How long after the steepest rise an event comes."""
        return self.picker.delay_samples

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y: Tensor = self.picker(self.strength(x))
        return y, state

    def extra_repr(self) -> str:
        return f"{self.strength!r}, {self.picker!r}"
