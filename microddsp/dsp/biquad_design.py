"""Second-order sections from frequency, quality and gain: direct form and state-variable form.

Source: R. Bristow-Johnson, "Audio EQ cookbook"; A. Simper, "Linear trapezoidal SVF", 2013.
"""

from __future__ import annotations

import torch
from torch import Tensor

from microddsp.dsp.filter import svf_row

RESPONSES = (
    "lowpass",
    "highpass",
    "bandpass",
    "notch",
    "allpass",
    "peaking",
    "lowshelf",
    "highshelf",
)
WITH_GAIN = ("peaking", "lowshelf", "highshelf")


def direct_section(
    response: str, frequency: Tensor, q: Tensor, gain_db: Tensor | None = None
) -> Tensor:
    """b0 b1 b2 a1 a2 for a frequency in cycles per sample, by the bilinear transform."""
    k = torch.tan(torch.pi * frequency)
    if response not in ("lowpass", "highpass", "bandpass", "notch"):
        return _bilinear(k, *_analog(response, q, gain_db))
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


def svf_section(
    response: str, frequency: Tensor, q: Tensor, gain_db: Tensor | None = None
) -> Tensor:
    """a1 a2 a3 m0 m1 m2 for a frequency in cycles per sample."""
    g, k = torch.tan(torch.pi * frequency), 1 / q
    one, zero = torch.ones_like(g), torch.zeros_like(g)
    if response in WITH_GAIN:
        a = amplitude(gain_db)
        if response == "peaking":
            k = k / a
            return svf_row(g, k, one, k * (a * a - 1), zero)
        if response == "lowshelf":
            return svf_row(g / torch.sqrt(a), k, one, k * (a - 1), a * a - 1)
        return svf_row(g * torch.sqrt(a), k, a * a, k * (1 - a) * a, 1 - a * a)
    mix = {
        "lowpass": (zero, zero, one),
        "highpass": (one, -k, -one),
        "bandpass": (zero, k, zero),
        "notch": (one, -k, zero),
        "allpass": (one, -2 * k, zero),
    }[response]
    return svf_row(g, k, *mix)


def amplitude(gain_db: Tensor | None) -> Tensor:
    """The cookbook's A, the square root of the gain."""
    assert gain_db is not None
    return torch.pow(10.0, gain_db / 40)


def _analog(
    response: str, q: Tensor, gain_db: Tensor | None
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Numerator and denominator (s^2, s, 1) of the prototype at w = 1."""
    one = torch.ones_like(q)
    if response == "allpass":
        return (one, -1 / q, one), (one, 1 / q, one)
    a = amplitude(gain_db)
    if response == "peaking":
        return (one, a / q, one), (one, 1 / (a * q), one)
    root = torch.sqrt(a) / q
    if response == "lowshelf":
        return (a, a * root, a * a), (a, root, one)
    return (a * a, a * root, a), (one, root, a)


def _bilinear(
    k: Tensor, numerator: tuple[Tensor, Tensor, Tensor], denominator: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """s = (1 - z^-1) / (k (1 + z^-1)) put into both polynomials."""

    def digital(n2: Tensor, n1: Tensor, n0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low = n0 * k * k
        return n2 + n1 * k + low, 2 * (low - n2), n2 - n1 * k + low

    a0, a1, a2 = digital(*denominator)
    b0, b1, b2 = digital(*numerator)
    return torch.stack([b0 / a0, b1 / a0, b2 / a0, a1 / a0, a2 / a0], -1)
