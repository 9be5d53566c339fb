"""Second-order filters from frequency and quality, as direct form or state-variable sections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from microddsp.dsp.block import positive, show
from microddsp.dsp.filter import Filter, Frequency, Positive, choose_form, form_name, svf_row
from microddsp.errors import ParameterError, nearest

RESPONSES = ("lowpass", "highpass", "bandpass", "notch")
Number = float | Sequence[float]


class Biquad(Filter):
    """One second-order section.

    Args:
        response: "lowpass", "highpass", "bandpass" (0 dB at the centre) or "notch".
        f0_hz: Cut-off or centre, between 0 and half the sample rate; one or one per channel.
        q: Quality factor, positive.
        sample_rate_hz: Samples per second.
        form: "direct", "svf", or "auto": state-variable below 1/500 of the sample rate.
        initial: "zero", or "first_sample": settled for the first sample ever seen.

    Raises:
        ParameterError: A value outside its range.

    Source: R. Bristow-Johnson, "Audio EQ cookbook"; A. Simper, "Linear trapezoidal SVF", 2013.
    """

    def __init__(
        self,
        response: str,
        f0_hz: Number,
        q: Number,
        sample_rate_hz: float,
        *,
        form: str = "auto",
        initial: str = "zero",
    ) -> None:
        super().__init__(sample_rate_hz, initial)
        where = type(self).__name__
        if response not in RESPONSES:
            raise ParameterError(
                f"unknown response {response!r}", where=where, hint=nearest(response, RESPONSES)
            )
        self.response = response
        self.frequency = Frequency("f0_hz", f0_hz, sample_rate_hz, where)
        self.quality = Positive(positive("q", q, where))
        self.kind = choose_form(form, self.frequency().detach(), sample_rate_hz, True, where)

    @classmethod
    def lowpass(
        cls,
        f0_hz: Number,
        q: Number = 0.5**0.5,
        *,
        sample_rate_hz: float,
        form: str = "auto",
        initial: str = "zero",
    ) -> Biquad:
        """Passes what is below f0."""
        return cls("lowpass", f0_hz, q, sample_rate_hz, form=form, initial=initial)

    @classmethod
    def highpass(
        cls,
        f0_hz: Number,
        q: Number = 0.5**0.5,
        *,
        sample_rate_hz: float,
        form: str = "auto",
        initial: str = "zero",
    ) -> Biquad:
        """Passes what is above f0."""
        return cls("highpass", f0_hz, q, sample_rate_hz, form=form, initial=initial)

    @classmethod
    def bandpass(
        cls,
        f0_hz: Number | None = None,
        q: Number | None = None,
        *,
        low_hz: float | None = None,
        high_hz: float | None = None,
        sample_rate_hz: float,
        form: str = "auto",
        initial: str = "zero",
    ) -> Biquad:
        """Passes a band, given by centre and quality or by its two -3 dB edges."""
        f0, quality = _centre(f0_hz, q, low_hz, high_hz)
        return cls("bandpass", f0, quality, sample_rate_hz, form=form, initial=initial)

    @classmethod
    def notch(
        cls,
        f0_hz: Number | None = None,
        q: Number | None = None,
        *,
        low_hz: float | None = None,
        high_hz: float | None = None,
        sample_rate_hz: float,
        form: str = "auto",
        initial: str = "zero",
    ) -> Biquad:
        """Stops a band, given by centre and quality or by its two -3 dB edges."""
        f0, quality = _centre(f0_hz, q, low_hz, high_hz)
        return cls("notch", f0, quality, sample_rate_hz, form=form, initial=initial)

    @property
    def f0_hz(self) -> Tensor:
        """The cut-off or centre in Hz."""
        return self.frequency()

    @property
    def q(self) -> Tensor:
        """The quality factor."""
        return self.quality()

    def coefficients(self) -> Tensor:
        assert self.sample_rate_hz is not None
        design = svf_section if self.kind == "svf" else direct_section
        f0, q = torch.broadcast_tensors(self.f0_hz, self.q)
        return design(self.response, f0 / self.sample_rate_hz, q)[..., None, :]

    def extra_repr(self) -> str:
        return (
            f"{self.response}, f0_hz={show(self.f0_hz)}, q={show(self.q)}, "
            f"sample_rate_hz={self.sample_rate_hz:g}, form={form_name(self.kind)}, "
            f"initial={self.initial}"
        )


class SVF(Biquad):
    """A `Biquad` that always uses state-variable sections: exact at any cut-off."""

    def __init__(
        self,
        response: str,
        f0_hz: Number,
        q: Number,
        sample_rate_hz: float,
        *,
        form: str = "svf",
        initial: str = "zero",
    ) -> None:
        if form == "direct":
            raise ParameterError(
                "a state-variable filter has no direct form", where="SVF", hint="take a Biquad"
            )
        chosen = "svf" if form == "auto" else form  # anything else is refused there
        super().__init__(response, f0_hz, q, sample_rate_hz, form=chosen, initial=initial)


def _centre(
    f0_hz: Number | None, q: Number | None, low_hz: float | None, high_hz: float | None
) -> tuple[Number, Number]:
    if low_hz is None and high_hz is None:
        if f0_hz is None:
            raise ParameterError("give f0_hz and q, or low_hz and high_hz", where="Biquad")
        return f0_hz, 0.5**0.5 if q is None else q
    if low_hz is None or high_hz is None or f0_hz is not None or q is not None:
        raise ParameterError("give f0_hz and q, or low_hz and high_hz", where="Biquad")
    if not 0 < low_hz < high_hz:
        raise ParameterError(
            f"edges must be 0 < low_hz < high_hz, got {low_hz} and {high_hz}", where="Biquad"
        )
    centre = (low_hz * high_hz) ** 0.5
    return centre, centre / (high_hz - low_hz)


def direct_section(response: str, frequency: Tensor, q: Tensor) -> Tensor:
    """b0 b1 b2 a1 a2 for a frequency in cycles per sample, by the bilinear transform."""
    k = torch.tan(torch.pi * frequency)
    norm = 1 / (1 + k / q + k * k)
    one, zero = torch.ones_like(k), torch.zeros_like(k)
    a1, a2 = 2 * (k * k - 1) * norm, (1 - k / q + k * k) * norm
    if response == "lowpass":
        gain, b = k * k * norm, (one, 2 * one, one)
    elif response == "highpass":
        gain, b = norm, (one, -2 * one, one)
    elif response == "bandpass":
        gain, b = k / q * norm, (one, zero, -one)
    else:
        gain, b = (1 + k * k) * norm, (one, a1 / ((1 + k * k) * norm), one)
    return torch.stack([gain * b[0], gain * b[1], gain * b[2], a1, a2], -1)


def svf_section(response: str, frequency: Tensor, q: Tensor) -> Tensor:
    """a1 a2 a3 m0 m1 m2 for a frequency in cycles per sample."""
    g, k = torch.tan(torch.pi * frequency), 1 / q
    one, zero = torch.ones_like(g), torch.zeros_like(g)
    mix = {
        "lowpass": (zero, zero, one),
        "highpass": (one, -k, -one),
        "bandpass": (zero, k, zero),
        "notch": (one, -k, zero),
    }[response]
    return svf_row(g, k, *mix)
