"""A filter driven by another signal."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, positive, show, zeros
from microddsp.dsp.driving import driving
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

    With `q=None` the quality factor is a third signal: `y = filter(x, cutoff_hz, q)`.

    Args:
        response: "lowpass", "highpass", "bandpass" (height 1 at the cut-off), "notch", "allpass".
        q: Quality factor, positive and learnable; one or one per channel. None: it is a signal.
        sample_rate_hz: Samples per second.
        low_hz, high_hz: What the cut-off is held between; beyond it, its gradient is zero. By
            default 1/1000 and 0.45 of the sample rate.
        low_q, high_q: The same for a quality factor that is a signal.

    Raises:
        ParameterError: A value outside its range.

    Source: see `microddsp.relax_ops.swept`.
    """

    def __init__(
        self,
        response: str,
        q: Number | None = 0.5**0.5,
        *,
        sample_rate_hz: float,
        low_hz: float | None = None,
        high_hz: float | None = None,
        low_q: float = 0.1,
        high_q: float = 20.0,
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
        self.low_q, self.high_q = float(low_q), float(high_q)
        if not 0.0 < self.low_q < self.high_q < float("inf"):
            raise ParameterError(
                f"low_q and high_q must be positive and rise, got {low_q} and {high_q}",
                where=where,
            )
        self.quality = None if q is None else Positive(positive("q", q, where))

    @property
    def q(self) -> Tensor | None:
        """The quality factor; None where it is a signal."""
        return None if self.quality is None else self.quality()

    def design(self) -> dict[str, Tensor]:
        assert self.sample_rate_hz is not None
        m0, m1, m2 = RESPONSES[self.response]
        held = [math.pi / self.sample_rate_hz, self.low_hz, self.high_hz]
        q = self.q
        if q is None:
            row = [*held, self.low_q, self.high_q, m0, m1, m2]
            return {"coefficients": torch.tensor(row, dtype=torch.float64)}
        k = 1 / q
        parts = [*(torch.full_like(k, v) for v in held), k]
        parts += [torch.full_like(k, m0), m1 * k, torch.full_like(k, m2)]
        return {"coefficients": torch.stack(parts, -1)}

    def initial_state(self, x: Tensor) -> State:
        return {"z": zeros(x, 2)}

    def forward(  # type: ignore[override]
        self, x: Tensor, cutoff_hz: Tensor, q: Tensor | None = None
    ) -> Tensor:
        """Filter `x`.

        Args:
            x: (..., channels, samples).
            cutoff_hz: Like x, or one channel for all.
            q: The same, for a filter that was made with `q=None`.

        Raises:
            SignalError: A cut-off or quality of another shape or type, a quality that is missing
                or not asked for.
        """
        self.check_signal(x)
        if (q is None) != (self.quality is not None):
            raise SignalError(
                "the filter has a quality factor of its own"
                if self.quality is not None
                else "the filter was made with q=None and needs the signal q",
                where="SweptFilter",
                hint="SweptFilter(response, None, ...) is called as filter(x, cutoff_hz, q)",
            )
        signals = [driving("cutoff_hz", cutoff_hz, x, "SweptFilter")]
        if q is not None:
            signals.append(driving("q", q, x, "SweptFilter"))
        return self.run(x, partial(self._filter, signals))

    def _filter(self, signals: list[Tensor], x: Tensor, state: State) -> tuple[Tensor, State]:
        coefficients = self.designed("coefficients").to(x)
        if len(signals) == 1:
            y, z = relax_ops.swept(x, signals[0], coefficients, state["z"])
        else:
            y, z = relax_ops.swept_quality(x, signals[0], signals[1], coefficients, state["z"])
        return y, {"z": z}

    @property
    def settle_samples(self) -> int:
        """At the lowest cut-off, and the highest quality if that is a signal."""
        with torch.no_grad():
            assert self.sample_rate_hz is not None
            g = torch.tensor(math.tan(math.pi * self.low_hz / self.sample_rate_hz)).double()
            q = self.q
            k = 1 / (torch.tensor(self.high_q).double() if q is None else q)
            ones = torch.ones_like(k)
            return decay_of("svf", svf_row(g * ones, k, ones, ones, ones))

    def extra_repr(self) -> str:
        q = self.q
        quality = f"from {self.low_q:g} to {self.high_q:g}" if q is None else show(q)
        return (
            f"{self.response}, q={quality}, sample_rate_hz={self.sample_rate_hz:g}, "
            f"low_hz={self.low_hz:g}, high_hz={self.high_hz:g}"
        )
