"""The filters of the ear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from microddsp.dsp.block import State, positive, show
from microddsp.dsp.filter import Filter, Frequency, Positive, as_svf, choose_form, form_name
from microddsp.dsp.spacing import EAR_Q, LEAST_BAND_HZ, erb_centres
from microddsp.errors import ParameterError, SignalError

# A gammatone of order 4 is this much wider than the ear's rectangular bandwidth.
_WIDER = 1.019


class Gammatone(Filter):
    """One channel in, a gammatone filter of order 4 in each channel out; 0 dB at their centres.

    Args:
        centre_hz: Centre of each filter, below half the sample rate.
        bandwidth: In the ear's bandwidths at the centre, positive; one, or one for each filter.
        sample_rate_hz: Samples per second.
        form: "direct", "svf", or "auto": state-variable if a centre is below 1/500 of the sample
            rate.

    Raises:
        ParameterError: A value outside its range.

    Source: M. Slaney, "An efficient implementation of the Patterson-Holdsworth auditory filter
    bank", Apple technical report 35, 1993; equals `scipy.signal.gammatone(f, "iir")`.
    """

    sections = 4

    def __init__(
        self,
        centre_hz: float | Sequence[float],
        *,
        bandwidth: float | Sequence[float] = 1.0,
        sample_rate_hz: float,
        form: str = "auto",
    ) -> None:
        super().__init__(sample_rate_hz, "zero")
        where = "Gammatone"
        centres = np.atleast_1d(np.asarray(centre_hz, dtype="float64"))
        self.centre = Frequency("centre_hz", centres.tolist(), sample_rate_hz, where)
        width = positive("bandwidth", bandwidth, where)
        if width.dim() and width.shape[0] != centres.shape[0]:
            raise ParameterError(
                f"{width.shape[0]} bandwidths do not fit {centres.shape[0]} filters", where=where
            )
        self.width = Positive(width)
        self.kind = choose_form(form, self.centre().detach(), sample_rate_hz, True, where)

    @classmethod
    def erb(
        cls,
        bands: int,
        low_hz: float,
        high_hz: float,
        *,
        sample_rate_hz: float,
        form: str = "auto",
    ) -> Gammatone:
        """Centres from low_hz to below high_hz, spaced as the ear's bandwidths."""
        centres = erb_centres(bands, low_hz, high_hz, "Gammatone")
        return cls(centres, sample_rate_hz=sample_rate_hz, form=form)

    @property
    def centre_hz(self) -> Tensor:
        """The centres in Hz."""
        return self.centre()

    @property
    def bandwidth(self) -> Tensor:
        """The widths, in the ear's."""
        return self.width()

    def _poles(self) -> tuple[Tensor, Tensor]:
        """Angle and radius of the four double poles."""
        assert self.sample_rate_hz is not None
        ear = self.centre_hz / EAR_Q + LEAST_BAND_HZ
        decay = 2 * torch.pi * _WIDER * self.bandwidth * ear / self.sample_rate_hz
        return 2 * torch.pi * self.centre_hz / self.sample_rate_hz, torch.exp(-decay)

    def _zeros(self, angle: Tensor, radius: Tensor) -> Tensor:
        """One zero for each section, on the last axis."""
        spread = [sign * (3 + other * 2**1.5) ** 0.5 for other in (1, -1) for sign in (1, -1)]
        across = torch.sin(angle)[..., None] * angle.new_tensor(spread)
        return radius[..., None] * (torch.cos(angle)[..., None] + across)

    def coefficients(self) -> Tensor:
        """Sections that start with 1: the gain is at the input, see `design`."""
        angle, radius = self._poles()
        zero = self._zeros(angle, radius)
        one = torch.ones_like(zero)
        a1 = (-2 * radius * torch.cos(angle))[..., None] * one
        a2 = (radius * radius)[..., None] * one
        sections = torch.stack([one, -zero, torch.zeros_like(one), a1, a2], -1)
        return as_svf(sections) if self.kind == "svf" else sections

    def gain(self) -> Tensor:
        """What makes the response 1 at each centre."""
        angle, radius = self._poles()
        zero = self._zeros(angle, radius)
        cosine = torch.cos(angle)[..., None]
        numerator = (1 - 2 * zero * cosine + zero * zero).prod(-1)
        near = (1 - radius) ** 2
        far = 1 - 2 * radius * torch.cos(2 * angle) + radius * radius
        return torch.sqrt((near * far) ** 4 / numerator)

    def design(self) -> dict[str, Tensor]:
        return {"coefficients": self.coefficients(), "gain": self.gain()[:, None]}

    def initial_state(self, x: Tensor) -> State:
        bands = self.centre.raw.shape[0]
        return {"z": x.new_zeros((*x.shape[:-2], bands, *self._state_shape()))}

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if x.shape[-2] != 1:
            raise SignalError(
                f"a filterbank takes one channel, got {x.shape[-2]}", where="Gammatone"
            )
        return super().process(x * self.designed("gain").to(x), state)

    def extra_repr(self) -> str:
        return (
            f"centre_hz={show(self.centre_hz)}, bandwidth={show(self.bandwidth)}, "
            f"sample_rate_hz={self.sample_rate_hz:g}, form={form_name(self.kind)}"
        )
