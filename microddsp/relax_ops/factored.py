"""Polynomials of any order as second-order sections, which float32 can compute."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from microddsp.errors import SignalError

# A factorisation whose product is farther from the polynomials than this is refused.
_TOLERANCE = 1e-6


def factored(b: Tensor, a: Tensor) -> Tensor:
    """Sections (..., count, 5) of filters with numerators b and denominators a, a[..., 0] = 1.

    Args:
        b: (..., order + 1), lowest delay first.
        a: The same shape.

    Up to order two a filter is one section, and gradients pass; above, the polynomials are
    factored in float64, and must not need a gradient.
    """
    order = b.shape[-1] - 1
    if order > 2:
        return _sections(b, a)
    pad = (0, 2 - order)
    b, a = torch.nn.functional.pad(b, pad), torch.nn.functional.pad(a, pad)
    return torch.cat([b, a[..., 1:]], -1).unsqueeze(-2)


@torch.library.custom_op("microddsp::sections", mutates_args=())
def _sections(b: Tensor, a: Tensor) -> Tensor:
    rows = [
        sections_of(numerator, denominator)
        for numerator, denominator in zip(
            b.detach().double().reshape(-1, b.shape[-1]).numpy(),
            a.detach().double().reshape(-1, a.shape[-1]).numpy(),
            strict=True,
        )
    ]
    made = np.stack(rows).reshape(*b.shape[:-1], -1, 5)
    return torch.from_numpy(made).to(b.dtype)


@_sections.register_fake
def _(b: Tensor, a: Tensor) -> Tensor:
    return b.new_empty((*b.shape[:-1], b.shape[-1] // 2, 5))


def sections_of(b: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Sections (count, 5) b0 b1 b2 a1 a2 of one filter, float64.

    Raises:
        SignalError: The polynomials are not finite or cannot be factored precisely.
    """
    from scipy.signal import zpk2sos

    count = len(b) // 2
    if not (np.isfinite(b).all() and np.isfinite(a).all()):
        raise SignalError("coefficients of a filter are not finite")
    if not b.any():
        return np.zeros((count, 5))
    delay = int(np.flatnonzero(b)[0])
    zeros, poles = np.roots(b[delay:]), np.roots(a)
    sections = zpk2sos(zeros, poles, b[delay])
    missing = count - len(sections)
    sections = np.vstack([sections, np.tile([1.0, 0, 0, 1, 0, 0], (max(missing, 0), 1))])
    # scipy fills up with zeros at the origin, which take back the delay: it is put in again
    for row in sections:
        while delay and row[2] == 0.0:
            row[:3] = [0.0, row[0], row[1]]
            delay -= 1
    _check(b, a, sections)
    return np.delete(sections, 3, axis=1)


def _check(b: np.ndarray, a: np.ndarray, sections: np.ndarray) -> None:
    found_b, found_a = np.ones(1), np.ones(1)
    for row in sections:
        found_b, found_a = np.convolve(found_b, row[:3]), np.convolve(found_a, row[3:])
    for wanted, found in ((b, found_b), (a, found_a)):
        padded = np.zeros(max(len(wanted), len(found)))
        padded[: len(wanted)] = wanted
        padded[: len(found)] -= found
        if np.abs(padded).max() > _TOLERANCE * np.abs(wanted).max():
            raise SignalError(
                f"a filter of order {len(a) - 1} cannot be split into second-order sections",
                hint="give it as sections of its own: roots too close to each other are lost",
            )
