"""A filter driven by another signal."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, positive, show, zeros
from microddsp.dsp.filter import Positive, decay_of, svf_row
from microddsp.dsp.parameters import Number
from microddsp.errors import ParameterError, SignalError, nearest

# Shares of input, band-pass times damping and low-pass in the output.
RESPONSES = {
    "lowpass": (0.0, 0.0, 1.0),
    "highpass": (1.0, -1.0, -1.0),
    "bandpass": (0.0, 1.0, 0.0),
    "notch": (1.0, -1.0, 0.0),
    "allpass": (1.0, -2.0, 0.0),
}


class SweptFilter(Block):
    """A second-order filter whose cut-off is a signal: `y = filter(x, cutoff_hz)`.

    The cut-off is a number for each sample: from an envelope, an oscillator, a table or a network.
    Whatever it does the filter stays stable, and both signals have exact gradients. At a constant
    cut-off it is the `Biquad` of that response.

        wobble = dsp.Oscillator(2.0, sample_rate_hz=8000)            # learnable
        y = dsp.SweptFilter("lowpass", 2.0, sample_rate_hz=8000)(x, 500 + 300 * wobble(0 * x))

    Args:
        response: "lowpass", "highpass", "bandpass" (height 1 at the cut-off), "notch", "allpass".
        q: Quality factor, positive and learnable; one or one per channel.
        sample_rate_hz: Samples per second.
        low_hz, high_hz: What the cut-off is held between; beyond it, its gradient is zero. By
            default 1/1000 and 0.45 of the sample rate.

    Raises:
        ParameterError: A value outside its range.

    Source: see `microddsp.relax_ops.swept`.
    """

    def __init__(
        self,
        response: str,
        q: Number = 0.5**0.5,
        *,
        sample_rate_hz: float,
        low_hz: float | None = None,
        high_hz: float | None = None,
    ) -> None:
        super().__init__()
        where = "SweptFilter"
        if response not in RESPONSES:
            raise ParameterError(
                f"unknown response {response!r}", where=where, hint=nearest(response, RESPONSES)
            )
        self.response = response
        self.sample_rate_hz = float(positive("sample_rate_hz", sample_rate_hz, where))
        self.low_hz = self.sample_rate_hz / 1000 if low_hz is None else float(low_hz)
        self.high_hz = 0.45 * self.sample_rate_hz if high_hz is None else float(high_hz)
        # at half the sample rate the tangent is infinite; shortly below it float32 is
        if not 0.0 < self.low_hz < self.high_hz <= 0.499 * self.sample_rate_hz:
            raise ParameterError(
                f"low_hz and high_hz must rise between 0 and {0.499 * self.sample_rate_hz:g} Hz, "
                f"got {low_hz} and {high_hz}",
                where=where,
            )
        self.quality = Positive(positive("q", q, where))

    @property
    def q(self) -> Tensor:
        """The quality factor."""
        return self.quality()

    def design(self) -> dict[str, Tensor]:
        assert self.sample_rate_hz is not None
        k = 1 / self.q
        m0, m1, m2 = RESPONSES[self.response]
        held = (math.pi / self.sample_rate_hz, self.low_hz, self.high_hz)
        parts = [*(torch.full_like(k, v) for v in held), k]
        parts += [torch.full_like(k, m0), m1 * k, torch.full_like(k, m2)]
        return {"coefficients": torch.stack(parts, -1)}

    def initial_state(self, x: Tensor) -> State:
        return {"z": zeros(x, 2)}

    def forward(self, x: Tensor, cutoff_hz: Tensor) -> Tensor:  # type: ignore[override]
        """Filter `x`.

        Args:
            x: (..., channels, samples).
            cutoff_hz: Like x, or one channel for all.

        Raises:
            SignalError: A cut-off of another shape or type.
        """
        self.check_signal(x)
        if cutoff_hz.dtype != x.dtype or cutoff_hz.shape[-1:] != x.shape[-1:]:
            raise SignalError(
                f"cutoff_hz is {tuple(cutoff_hz.shape)} of {cutoff_hz.dtype}, the signal "
                f"{tuple(x.shape)} of {x.dtype}",
                where="SweptFilter",
            )
        if cutoff_hz.shape != x.shape:
            cutoff_hz = _spread(cutoff_hz, x)
        return self.run(x, partial(self._filter, cutoff_hz))

    def _filter(self, cutoff_hz: Tensor, x: Tensor, state: State) -> tuple[Tensor, State]:
        coefficients = self.designed("coefficients").to(x)
        y, z = relax_ops.swept(x, cutoff_hz, coefficients, state["z"])
        return y, {"z": z}

    @property
    def settle_samples(self) -> int:
        """At the lowest cut-off."""
        with torch.no_grad():
            assert self.sample_rate_hz is not None
            g = torch.tensor(math.tan(math.pi * self.low_hz / self.sample_rate_hz)).double()
            k = 1 / self.q
            ones = torch.ones_like(k)
            return decay_of("svf", svf_row(g * ones, k, ones, ones, ones))

    def extra_repr(self) -> str:
        return (
            f"{self.response}, q={show(self.q)}, sample_rate_hz={self.sample_rate_hz:g}, "
            f"low_hz={self.low_hz:g}, high_hz={self.high_hz:g}"
        )


def _spread(cutoff_hz: Tensor, x: Tensor) -> Tensor:
    """One cut-off for all channels, or for a whole batch."""
    try:
        return cutoff_hz.expand(x.shape)
    except RuntimeError:
        raise SignalError(
            f"cutoff_hz {tuple(cutoff_hz.shape)} does not fit the signal {tuple(x.shape)}",
            where="SweptFilter",
            hint="like the signal, or one channel for all",
        ) from None
