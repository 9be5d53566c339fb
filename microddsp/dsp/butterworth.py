"""Butterworth filters of any order with learnable edges."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from microddsp.dsp.biquad_design import direct_section, svf_section
from microddsp.dsp.block import show, whole
from microddsp.dsp.filter import Filter, Frequency, choose_form, form_name, svf_row
from microddsp.errors import ParameterError

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
        self.kind = choose_form(form, self.cutoff().detach(), sample_rate_hz, True, where)

    @property
    def cutoff_hz(self) -> Tensor:
        """The -3 dB frequency in Hz."""
        return self.cutoff()

    def coefficients(self) -> Tensor:
        assert self.sample_rate_hz is not None
        frequency = self.cutoff_hz / self.sample_rate_hz
        # the conjugate pairs of the prototype's poles, as quality factors
        angles = [math.pi * (2 * i + 1) / (2 * self.order) for i in range(self.order // 2)]
        q = frequency.new_tensor([1 / (2 * math.sin(angle)) for angle in angles])
        spread = frequency[..., None].expand(*frequency.shape, len(angles))
        section = svf_section if self.kind == "svf" else direct_section
        sections = section(self.response, spread, q.expand(spread.shape))
        if self.order % 2:
            first = _first_order(self.response, frequency, self.kind)[..., None, :]
            sections = torch.cat([first, sections], -2)
        return sections if self.kind == "svf" else gain_first(sections)

    def extra_repr(self) -> str:
        return (
            f"cutoff_hz={show(self.cutoff_hz)}, order={self.order}, "
            f"sample_rate_hz={self.sample_rate_hz:g}, form={form_name(self.kind)}, "
            f"initial={self.initial}"
        )


class Lowpass(_Edge):
    """Butterworth low-pass.

    Args:
        cutoff_hz: -3 dB frequency, below half the sample rate; one or one per channel.
        order: 1 to 24.
        sample_rate_hz: Samples per second.
        form: "direct", "svf", or "auto": state-variable below 1/500 of the sample rate.
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
        form: str = "auto",
        initial: str = "zero",
    ) -> None:
        super().__init__(sample_rate_hz, initial)
        where = type(self).__name__
        self.order = _order(order, where)
        self.sections = self.order
        self.low = Frequency("low_hz", low_hz, sample_rate_hz, where)
        self.high = Frequency("high_hz", high_hz, sample_rate_hz, where, above=low_hz)
        self.kind = choose_form(form, self.low().detach(), sample_rate_hz, True, where)

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
            f"sample_rate_hz={self.sample_rate_hz:g}, form={form_name(self.kind)}, "
            f"initial={self.initial}"
        )


class Bandpass(_Band):
    """Butterworth band-pass of `order` second-order sections.

    Args:
        low_hz, high_hz: -3 dB edges, 0 < low < high < half the sample rate; one or one per channel.
        order: 1 to 24; the filter's order is twice that, as in scipy.
        sample_rate_hz: Samples per second.
        form: "direct", "svf", or "auto": state-variable if the lower edge is below 1/500 of the
            sample rate.
        initial: "zero" or "first_sample".

    Raises:
        ParameterError: A value outside its range.

    Source: equals `scipy.signal.butter(order, [low_hz, high_hz], "bandpass", fs=...)`.
    """

    def coefficients(self) -> Tensor:
        centre2, width = self._warped()
        total, product = _band_poles(self.order, centre2, width)
        zero = torch.zeros_like(product)
        if self.kind == "svf":
            g = torch.sqrt(product)
            return svf_row(g, -total / g, zero, width[..., None] / g, zero)
        a1, a2, scale = _digital(total, product)
        gain = width**self.order / scale.prod(-1)
        one = torch.ones_like(a1)
        return _scaled(torch.stack([one, zero, -one, a1, a2], -1), gain)


class Bandstop(_Band):
    """Butterworth band-stop (a notch with two edges); arguments as `Bandpass`.

    Source: equals `scipy.signal.butter(order, [low_hz, high_hz], "bandstop", fs=...)`.
    """

    def coefficients(self) -> Tensor:
        centre2, width = self._warped()
        total, product = _band_poles(self.order, centre2, width)
        one = torch.ones_like(product)
        if self.kind == "svf":
            g = torch.sqrt(product)
            k = -total / g
            return svf_row(g, k, one, -k, centre2[..., None] / product - 1)
        a1, a2, scale = _digital(total, product)
        b1 = -2 * ((1 - centre2) / (1 + centre2))[..., None] * one
        gain = (1 + centre2) ** self.order / scale.prod(-1)
        return _scaled(torch.stack([one, b1, one, a1, a2], -1), gain)


def _order(order: int, where: str) -> int:
    order = whole("order", order, where)
    if order > MAX_ORDER:
        raise ParameterError(f"order must be at most {MAX_ORDER}, got {order}", where=where)
    return order


def _band_poles(order: int, centre2: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and product of the two analog poles of each section: s^2 - sum s + product.

    Each pole p of the prototype gives r with r^2 - width p r + centre2 = 0. The larger root is
    computed, the smaller is centre2 over it, so that neither loses digits in a wide band. A
    band-stop has the same poles as a band-pass, because |p| = 1.
    """
    angles = [math.pi * (2 * i + 1 + order) / (2 * order) for i in range(order // 2)]
    square, half = centre2[..., None], width[..., None] / 2
    real = half * half.new_tensor([math.cos(a) for a in angles])
    imag = half * half.new_tensor([math.sin(a) for a in angles])
    # square root of (real + j imag)^2 - centre2, on the side of the prototype's pole
    under, across = real * real - imag * imag - square, 2 * real * imag
    size = torch.hypot(under, across)
    major = torch.sqrt((size + under.abs()) / 2)
    minor = across.abs() / (2 * major)
    real = real - torch.where(under >= 0, major, minor)
    imag = imag + torch.where(under >= 0, minor, major)
    norm = real * real + imag * imag
    # the two sections of a pole side by side, the lower frequency first
    total = torch.stack([2 * square * real / norm, 2 * real], -1).flatten(-2)
    product = torch.stack([square * square / norm, norm], -1).flatten(-2)
    if order % 2:  # the real pole: both roots in one section
        total = torch.cat([total, -2 * half], -1)
        product = torch.cat([product, square], -1)
    return total, product


def _digital(total: Tensor, product: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a1, a2 of each section by the bilinear transform, and what its numerator is divided by."""
    scale = 1 - total + product
    return -2 * (1 - product) / scale, (1 + total + product) / scale, scale


def _first_order(response: str, frequency: Tensor, kind: str) -> Tensor:
    k = torch.tan(torch.pi * frequency)
    zero, one = torch.zeros_like(k), torch.ones_like(k)
    if kind == "svf":
        # k/(s + k) = (k s + k^2)/(s + k)^2, and s/(s + k) likewise: a double pole, one cancelled
        mix = (zero, one, one) if response == "lowpass" else (one, -one, -one)
        return svf_row(k, 2 * one, *mix)
    gain = (k if response == "lowpass" else one) / (1 + k)
    b1 = gain if response == "lowpass" else -gain
    return torch.stack([gain, b1, zero, (k - 1) / (k + 1), zero], -1)


def gain_first(sections: Tensor) -> Tensor:
    """The same cascade with the whole gain in the first section: the others cost no multiply."""
    gain = sections[..., 0].prod(-1)
    plain = torch.cat([sections[..., :3] / sections[..., :1], sections[..., 3:]], -1)
    return _scaled(plain, gain)


def _scaled(plain: Tensor, gain: Tensor) -> Tensor:
    first = torch.cat([plain[..., :1, :3] * gain[..., None, None], plain[..., :1, 3:]], -1)
    return torch.cat([first, plain[..., 1:, :]], -2) if plain.shape[-2] > 1 else first
