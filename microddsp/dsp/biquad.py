"""Second-order filters from frequency and quality, as direct form or state-variable sections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from microddsp.dsp.biquad_design import RESPONSES, WITH_GAIN, direct_section, svf_section
from microddsp.dsp.block import positive, show
from microddsp.dsp.filter import Filter, Frequency, Positive, choose_form, exact, form_name
from microddsp.errors import ParameterError, nearest

Number = float | Sequence[float]
MAX_GAIN_DB = 120.0


class Biquad(Filter):
    """One second-order section.

    Args:
        response: "lowpass", "highpass", "bandpass" (0 dB at the centre), "notch", "allpass",
            "peaking", "lowshelf" or "highshelf".
        f0_hz: Cut-off or centre, between 0 and half the sample rate; one or one per channel.
        q: Quality factor, positive.
        sample_rate_hz: Samples per second.
        gain_db: Of a peak or a shelf, and of these only; one or one per channel.
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
        gain_db: Number | None = None,
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
        self.gain = _decibels(response, gain_db, where)
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

    @classmethod
    def allpass(
        cls,
        f0_hz: Number,
        q: Number = 0.5**0.5,
        *,
        sample_rate_hz: float,
        form: str = "auto",
        initial: str = "zero",
    ) -> Biquad:
        """Passes everything; the phase turns by 180 degrees at f0."""
        return cls("allpass", f0_hz, q, sample_rate_hz, form=form, initial=initial)

    @classmethod
    def peaking(
        cls,
        f0_hz: Number,
        q: Number = 1.0,
        *,
        gain_db: Number,
        sample_rate_hz: float,
        form: str = "auto",
        initial: str = "zero",
    ) -> Biquad:
        """Raises or lowers a band around f0 by gain_db; q is that of the cookbook."""
        return cls(
            "peaking",
            f0_hz,
            q,
            sample_rate_hz,
            gain_db=gain_db,
            form=form,
            initial=initial,
        )

    @classmethod
    def lowshelf(
        cls,
        f0_hz: Number,
        q: Number = 0.5**0.5,
        *,
        gain_db: Number,
        sample_rate_hz: float,
        form: str = "auto",
        initial: str = "zero",
    ) -> Biquad:
        """Raises or lowers what is below f0 by gain_db, half of it at f0."""
        return cls(
            "lowshelf",
            f0_hz,
            q,
            sample_rate_hz,
            gain_db=gain_db,
            form=form,
            initial=initial,
        )

    @classmethod
    def highshelf(
        cls,
        f0_hz: Number,
        q: Number = 0.5**0.5,
        *,
        gain_db: Number,
        sample_rate_hz: float,
        form: str = "auto",
        initial: str = "zero",
    ) -> Biquad:
        """Raises or lowers what is above f0 by gain_db, half of it at f0."""
        return cls(
            "highshelf",
            f0_hz,
            q,
            sample_rate_hz,
            gain_db=gain_db,
            form=form,
            initial=initial,
        )

    @property
    def f0_hz(self) -> Tensor:
        """The cut-off or centre in Hz."""
        return self.frequency()

    @property
    def q(self) -> Tensor:
        """The quality factor."""
        return self.quality()

    @property
    def gain_db(self) -> Tensor | None:
        """The gain of a peak or shelf in dB; None for other responses."""
        return None if self.gain is None else exact(self.gain)

    def coefficients(self) -> Tensor:
        assert self.sample_rate_hz is not None
        design = svf_section if self.kind == "svf" else direct_section
        given = (self.f0_hz, self.q) if self.gain is None else (self.f0_hz, self.q, self.gain_db)
        f0, *others = torch.broadcast_tensors(*given)
        return design(self.response, f0 / self.sample_rate_hz, *others)[..., None, :]

    def extra_repr(self) -> str:
        gain = "" if self.gain is None else f"gain_db={show(self.gain)}, "
        return (
            f"{self.response}, f0_hz={show(self.f0_hz)}, q={show(self.q)}, {gain}"
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
        gain_db: Number | None = None,
        form: str = "svf",
        initial: str = "zero",
    ) -> None:
        if form == "direct":
            raise ParameterError(
                "a state-variable filter has no direct form", where="SVF", hint="take a Biquad"
            )
        chosen = "svf" if form == "auto" else form  # anything else is refused there
        super().__init__(
            response, f0_hz, q, sample_rate_hz, gain_db=gain_db, form=chosen, initial=initial
        )


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


def _decibels(response: str, gain_db: Number | None, where: str) -> torch.nn.Parameter | None:
    if response not in WITH_GAIN:
        if gain_db is not None:
            raise ParameterError(f"a {response} takes no gain_db", where=where)
        return None
    if gain_db is None:
        raise ParameterError(f"a {response} needs gain_db", where=where)
    value = torch.as_tensor(gain_db, dtype=torch.float32)
    if value.dim() > 1 or not bool((value.abs() <= MAX_GAIN_DB).all()):
        raise ParameterError(
            f"gain_db is one number or one per channel, at most {MAX_GAIN_DB:g} dB either way, "
            f"got {gain_db}",
            where=where,
        )
    return torch.nn.Parameter(value)
