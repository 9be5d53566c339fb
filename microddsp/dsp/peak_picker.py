"""Peaks of a feature signal as events: exact and causal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, positive, show, zeros
from microddsp.dsp.filter import Positive
from microddsp.dsp.parameters import Number
from microddsp.dsp.streaming import is_streaming
from microddsp.errors import ParameterError
from microddsp.relax_ops.moving_max import HUGE, unknown_past

# Steepness of the soft threshold, in units of the threshold.
_SLOPE = 4.0
# Whole numbers are counted in float32 below this.
_MOST = 2**23


class PeakPicker(Block):
    """A 0/1 signal of events at the peaks of a feature, such as an onset strength or an envelope.

    A sample is a peak if it is above all samples in the `look_back_s` before it, not below any in
    the `lookahead_s` after it, above the threshold, and no event was in the `refractory_s` before.
    With `mean_s` the threshold is above a running mean of the feature instead of above zero. The
    event comes `lookahead_s` after the peak: `delay_samples`. What was before the start is not
    known: there is no event in the first `look_back_s`.

    The decision itself has no gradient. In training the events are exact and gradients pass
    straight through a soft threshold on the heights of all local peaks, those too low included;
    `refractory_s` is not seen by it, nor are peaks whose lookahead reaches into the next chunk of
    `microddsp.step`.

    Args:
        threshold: Positive, in units of the input; one or one per channel.
        look_back_s: At least one sample; rounded to samples, as all times here.
        lookahead_s: At most `look_back_s`. 0 knows no fall: it fires on the way up, once in a
            refractory time.
        mean_s: Time constant of the running mean (exponential), or None.
        refractory_s: Seconds in which no event follows an event.
        sample_rate_hz: Samples of the feature per second.

    Raises:
        ParameterError: A value outside its range.

    Source: S. Boeck, F. Krebs, M. Schedl, "Evaluating the online capabilities of onset detection
    methods", ISMIR 2012, 2.3, after S. Dixon, "Onset detection revisited", DAFx 2006; the mean is
    exponential here instead of that of a window.
    """

    def __init__(
        self,
        threshold: Number,
        *,
        look_back_s: float,
        lookahead_s: float = 0.0,
        mean_s: float | None = None,
        refractory_s: float = 0.0,
        sample_rate_hz: float,
    ) -> None:
        super().__init__()
        where = "PeakPicker"
        self.sample_rate_hz = float(positive("sample_rate_hz", sample_rate_hz, where))
        self.level = Positive(positive("threshold", threshold, where))
        self.look_back_samples = self._samples("look_back_s", look_back_s, 1)
        self.lookahead_samples = self._samples("lookahead_s", lookahead_s, 0)
        self.refractory_samples = self._samples("refractory_s", refractory_s, 0)
        if self.lookahead_samples > self.look_back_samples:
            raise ParameterError(
                f"lookahead_s must be at most look_back_s, {look_back_s:g} s, got {lookahead_s}",
                where=where,
            )
        self.mean_s = None if mean_s is None else float(positive("mean_s", mean_s, where))

    def _samples(self, name: str, seconds: float, least: int) -> int:
        assert self.sample_rate_hz is not None
        samples = seconds * self.sample_rate_hz
        if not -0.5 <= samples < _MOST or round(samples) < least or seconds < 0:
            raise ParameterError(
                f"{name} must be {least} to {_MOST} samples of {1 / self.sample_rate_hz:g} s, "
                f"got {seconds} s",
                where="PeakPicker",
            )
        return round(samples)

    @property
    def threshold(self) -> Tensor:
        """What a peak must be above."""
        return self.level()

    @property
    def delay_samples(self) -> int:
        """How long after its peak an event comes."""
        return self.lookahead_samples

    def _coefficients(self, threshold: Tensor, refractory: int) -> Tensor:
        assert self.sample_rate_hz is not None
        share = 0.0
        if self.mean_s is not None:
            share = -math.expm1(-1 / (self.mean_s * self.sample_rate_hz))
        numbers = (share, self.lookahead_samples, refractory)
        parts = [torch.as_tensor(v).to(threshold).expand_as(threshold) for v in numbers]
        return torch.stack([threshold, *parts], -1)

    def design(self) -> dict[str, Tensor]:
        return {"coefficients": self._coefficients(self.threshold, self.refractory_samples)}

    def initial_state(self, x: Tensor) -> State:
        return {
            key: torch.as_tensor(self.start_of(key)).to(x).repeat(*x.shape[:-1], 1)
            for key in ("past", "machine")
        }

    def start_of(self, key: str) -> float | Tensor:
        if key == "past":
            return unknown_past(self.look_back_samples)
        return torch.tensor([HUGE, self.lookahead_samples + 1.0, 0.0, 0.0])

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        highest, past = relax_ops.moving_max(x, state["past"])
        coefficients = self.designed("coefficients").to(x).detach()
        events, machine = relax_ops.peaks(x.detach(), highest, coefficients, state["machine"])
        if torch.is_grad_enabled() and not is_streaming(self):
            soft = self._soft_peaks(x, highest, state["machine"])
            events = events + (soft - soft.detach())
        return events, {"past": past, "machine": machine}

    def _soft_peaks(self, x: Tensor, highest: Tensor, machine: Tensor) -> Tensor:
        """Local peaks of any height, weighed by how far they are above the threshold: what the
        gradient of the exact events is taken from."""
        anything = torch.full_like(self.threshold, -1e30)
        coefficients = self._coefficients(anything, 0).to(x)
        local, _ = relax_ops.peaks(x.detach(), highest, coefficients, machine)
        height = self._above_mean(x, machine)
        if self.lookahead_samples:
            late = zeros(x, self.lookahead_samples)
            height, _ = relax_ops.delay(height, self.lookahead_samples, late)
        level = self.threshold.to(x)[..., None]
        return local * torch.sigmoid(_SLOPE * (height - level) / level)

    def _above_mean(self, x: Tensor, machine: Tensor) -> Tensor:
        """The feature without its mean before each sample."""
        if self.mean_s is None:
            return x
        share = self._coefficients(self.threshold, 0)[..., 1].to(x)
        part = torch.stack([torch.zeros_like(share), share, share - 1.0], -1)
        # b1 delays by a sample: y[n] = share x[n-1] + (1 - share) y[n-1]
        mean, _ = relax_ops.first_order(x, part, machine[..., 3:].detach())
        return x - mean

    @property
    def settle_samples(self) -> int:
        return self.look_back_samples

    def extra_repr(self) -> str:
        mean = "" if self.mean_s is None else f"mean_s={self.mean_s:g}, "
        assert self.sample_rate_hz is not None
        times = ", ".join(
            f"{name}_s={samples / self.sample_rate_hz:g}"
            for name, samples in (
                ("look_back", self.look_back_samples),
                ("lookahead", self.lookahead_samples),
                ("refractory", self.refractory_samples),
            )
        )
        return (
            f"threshold={show(self.threshold)}, {times}, {mean}"
            f"sample_rate_hz={self.sample_rate_hz:g}"
        )
