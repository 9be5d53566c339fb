"""Butterworth filters of any order with learnable edges."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from microddsp.dsp.biquad import direct_section, svf_section
from microddsp.dsp.block import show, whole
from microddsp.dsp.filter import Filter, Frequency, choose_form

Number = float | Sequence[float]
MAX_ORDER = 24


class _Edge(Filter):
    """Low-pass and high-pass: one edge."""

    response = ""

    def __init__(
        self,
        cutoff_hz: Number,
        order: int = 2,
        *,
        sample_rate_hz: float,
        form: str = "auto",
        initial: str = "zero",
    ) -> None:
        super().__init__(sample_rate_hz, initial)
        where = type(self).__name__
        self.order = _order(order, where)
        self.sections = (self.order + 1) // 2
        self.cutoff = Frequency("cutoff_hz", cutoff_hz, sample_rate_hz, where)
        even = order % 2 == 0
        self.kind = choose_form(form, self.cutoff().detach(), sample_rate_hz, even, where)

    @property
    def cutoff_hz(self) -> Tensor:
        """The -3 dB frequency in Hz."""
        return self.cutoff()

    def coefficients(self) -> Tensor:
        assert self.sample_rate_hz is not None
        frequency = self.cutoff_hz / self.sample_rate_hz
        # the conjugate pairs of the prototype's poles, as quality factors
        angles = [math.pi * (2 * i + 1) / (2 * self.order) for i in range(self.order // 2)]
        q = torch.tensor([1 / (2 * math.sin(angle)) for angle in angles], dtype=torch.float64)
        spread = frequency[..., None].expand(*frequency.shape, len(angles))
        if self.kind == "svf":
            return svf_section(self.response, spread, q.expand(spread.shape))
        sections = direct_section(self.response, spread, q.expand(spread.shape))
        if self.order % 2:
            sections = torch.cat(
                [_first_order(self.response, frequency)[..., None, :], sections], -2
            )
        return gain_first(sections)

    def extra_repr(self) -> str:
        return (
            f"cutoff_hz={show(self.cutoff_hz)}, order={self.order}, "
            f"sample_rate_hz={self.sample_rate_hz:g}, form={self.kind}, initial={self.initial}"
        )


class Lowpass(_Edge):
    """Butterworth low-pass.

    Args:
        cutoff_hz: -3 dB frequency, below half the sample rate; one or one per channel.
        order: 1 to 24.
        sample_rate_hz: Samples per second.
        form: "direct", "svf" (even orders), or "auto".
        initial: "zero" or "first_sample".

    Raises:
        ParameterError: A value outside its range.

    Source: equals `scipy.signal.butter(order, cutoff_hz, fs=sample_rate_hz)`.
    """

    response = "lowpass"


class Highpass(_Edge):
    """Butterworth high-pass; arguments as `Lowpass`.

    Source: equals `scipy.signal.butter(order, cutoff_hz, "highpass", fs=sample_rate_hz)`.
    """

    response = "highpass"


class _Band(Filter):
    """Band-pass and band-stop: two edges, `order` sections."""

    def __init__(
        self,
        low_hz: Number,
        high_hz: Number,
        order: int = 2,
        *,
        sample_rate_hz: float,
        initial: str = "zero",
    ) -> None:
        super().__init__(sample_rate_hz, initial)
        where = type(self).__name__
        self.order = _order(order, where)
        self.sections = self.order
        self.low = Frequency("low_hz", low_hz, sample_rate_hz, where)
        self.high = Frequency("high_hz", high_hz, sample_rate_hz, where, above=low_hz)

    @property
    def low_hz(self) -> Tensor:
        """The lower -3 dB edge in Hz."""
        return self.low()

    @property
    def high_hz(self) -> Tensor:
        """The upper -3 dB edge in Hz; always above the lower one."""
        return self.high(self.low())

    def _warped(self) -> tuple[Tensor, Tensor]:
        """Square of the centre and width of the analog band."""
        low, high = torch.broadcast_tensors(self.low_hz, self.high_hz)
        w1, w2 = (torch.tan(torch.pi * f / self.sample_rate_hz) for f in (low, high))
        return w1 * w2, w2 - w1

    def extra_repr(self) -> str:
        return (
            f"low_hz={show(self.low_hz)}, high_hz={show(self.high_hz)}, order={self.order}, "
            f"sample_rate_hz={self.sample_rate_hz:g}, initial={self.initial}"
        )


class Bandpass(_Band):
    """Butterworth band-pass of `order` second-order sections.

    Args:
        low_hz, high_hz: -3 dB edges, 0 < low < high < half the sample rate; one or one per channel.
        order: 1 to 24; the filter's order is twice that, as in scipy.
        sample_rate_hz: Samples per second.
        initial: "zero" or "first_sample".

    Raises:
        ParameterError: A value outside its range.

    Source: equals `scipy.signal.butter(order, [low_hz, high_hz], "bandpass", fs=...)`.
    """

    def coefficients(self) -> Tensor:
        centre2, width = self._warped()
        roots = _band_poles(_prototype(self.order), centre2, width)
        a1, a2, scale = _digital(roots)
        gain = width**self.order / scale.prod(-1)
        one = torch.ones_like(a1)
        return _scaled(torch.stack([one, 0 * one, -one, a1, a2], -1), gain)


class Bandstop(_Band):
    """Butterworth band-stop (a notch with two edges); arguments as `Bandpass`.

    Source: equals `scipy.signal.butter(order, [low_hz, high_hz], "bandstop", fs=...)`.
    """

    def coefficients(self) -> Tensor:
        centre2, width = self._warped()
        roots = _band_poles(1 / _prototype(self.order), centre2, width)
        a1, a2, _ = _digital(roots)
        cosine = ((1 - centre2) / (1 + centre2))[..., None].expand(a1.shape)
        one = torch.ones_like(a1)
        gain = ((1 + a1 + a2) / (2 - 2 * cosine)).prod(-1)
        return _scaled(torch.stack([one, -2 * cosine, one, a1, a2], -1), gain)


def _order(order: int, where: str) -> int:
    from microddsp.errors import ParameterError

    order = whole("order", order, where)
    if order > MAX_ORDER:
        raise ParameterError(f"order must be at most {MAX_ORDER}, got {order}", where=where)
    return order


def _prototype(order: int) -> Tensor:
    """Poles of the analog prototype in the upper half plane, the real one included."""
    angles = [math.pi * (2 * i + 1 + order) / (2 * order) for i in range((order + 1) // 2)]
    return torch.tensor([complex(math.cos(a), math.sin(a)) for a in angles], dtype=torch.complex128)


def _band_poles(prototype: Tensor, centre2: Tensor, width: Tensor) -> Tensor:
    """Pairs of analog poles (..., sections, 2): each pair makes one real section."""
    half = prototype * (width[..., None] / 2)
    root = torch.sqrt(half * half - centre2[..., None])
    upper, lower = half + root, half - root
    pairs = []
    for i, pole in enumerate(prototype.tolist()):
        if abs(pole.imag) < 1e-12:
            pairs.append(torch.stack([upper[..., i], lower[..., i]], -1))
        else:
            for half_pair in (upper[..., i], lower[..., i]):
                pairs.append(torch.stack([half_pair, half_pair.conj()], -1))
    return torch.stack(pairs, -2)


def _digital(roots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a1, a2 of each section by the bilinear transform, and the product of (1 - pole)."""
    z = (1 + roots) / (1 - roots)
    scale = (1 - roots).prod(-1).real
    return -z.sum(-1).real, z.prod(-1).real, scale


def _first_order(response: str, frequency: Tensor) -> Tensor:
    k = torch.tan(torch.pi * frequency)
    gain = (k if response == "lowpass" else torch.ones_like(k)) / (1 + k)
    b1 = gain if response == "lowpass" else -gain
    zero = torch.zeros_like(k)
    return torch.stack([gain, b1, zero, (k - 1) / (k + 1), zero], -1)


def gain_first(sections: Tensor) -> Tensor:
    """The same cascade with the whole gain in the first section: the others cost no multiply."""
    gain = sections[..., 0].prod(-1)
    plain = torch.cat([sections[..., :3] / sections[..., :1], sections[..., 3:]], -1)
    return _scaled(plain, gain)


def _scaled(plain: Tensor, gain: Tensor) -> Tensor:
    first = torch.cat([plain[..., :1, :3] * gain[..., None, None], plain[..., :1, 3:]], -1)
    return torch.cat([first, plain[..., 1:, :]], -2)
