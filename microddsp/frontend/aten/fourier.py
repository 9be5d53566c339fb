"""Fourier transforms of pairs (real, imaginary) on a last axis of two.

Lengths and transforms that have no fast operator are products with a matrix of cosines and sines:
right, but n * (n + 2) numbers of flash.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from microddsp.relax_ops import rfft
from microddsp.relax_ops.fft_plan import is_fast


def half(x: Tensor) -> Tensor:
    """(..., n) real as (..., n // 2 + 1, 2): torch.fft.rfft."""
    size = x.shape[-1]
    if is_fast(size):
        return rfft(x)
    bins = size // 2 + 1
    cosine, sine = _table(torch.arange(size), torch.arange(bins), size)
    table = torch.stack([cosine, -sine], -1).reshape(size, 2 * bins)
    return (x @ table.to(x.dtype)).unflatten(-1, (bins, 2))


def inverse_half(pair: Tensor, size: int) -> Tensor:
    """(..., bins, 2) as (..., size) real: a sum in which all inner bins count twice."""
    bins = size // 2 + 1
    cosine, sine = _table(torch.arange(bins), torch.arange(size), size)
    weight = torch.full((bins, 1), 2.0, dtype=torch.float64)
    once = torch.arange(bins).remainder(size / 2) == 0
    weight = torch.where(once[:, None], weight / 2, weight)
    table = torch.stack([cosine * weight, -sine * weight], 1).reshape(2 * bins, size)
    return pair[..., :bins, :].flatten(-2) @ table.to(pair.dtype)


def full(pair: Tensor, forward: bool) -> Tensor:
    """(..., n, 2) as (..., n, 2), a sum in both directions."""
    size = pair.shape[-2]
    cosine, sine = _table(torch.arange(size), torch.arange(size), size)
    sine = -sine if forward else sine
    from_real = torch.stack([cosine, sine], -1)
    from_imaginary = torch.stack([-sine, cosine], -1)
    table = torch.stack([from_real, from_imaginary], 1).reshape(2 * size, 2 * size)
    return (pair.flatten(-2) @ table.to(pair.dtype)).unflatten(-1, (size, 2))


def _table(rows: Tensor, columns: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi r c / size, float64; the angle is reduced while it is a whole number."""
    angle = (rows[:, None] * columns).remainder(size).double() * (2 * math.pi / size)
    return torch.cos(angle), torch.sin(angle)
