"""What linear modules do to frequencies: impulse and frequency responses, group delay."""

from __future__ import annotations

import copy

import numpy as np
import torch

from microddsp.errors import MicroddspError

_PROBE = 64


def impulse_response(
    module: torch.nn.Module, samples: int = 8192, *, channels: int = 1
) -> np.ndarray:
    """(channels, samples) float64: what comes after an impulse in every channel at once.

    The impulse is the signal's second sample: a filter with `initial="first_sample"` is settled
    to the zero before it.

    Raises:
        MicroddspError: The module is not linear and the same at all times.
    """
    exact = copy.deepcopy(module).double().eval()
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(2, channels, _PROBE, generator=generator, dtype=torch.float64)
    probes[..., 0] = 0.0
    with torch.no_grad():
        one, other, both = (exact(x) for x in (*probes, 2 * probes[0] - probes[1]))
        largest = max(1e-12, one.abs().max().item(), other.abs().max().item())
        if one.shape[-1] != _PROBE or (both - 2 * one + other).abs().max() > 1e-4 * largest:
            raise MicroddspError(
                "is not linear, so that it has no frequency response", where=type(module).__name__
            )
        later = exact(torch.nn.functional.pad(probes[0], (1, 0)))[..., 1:]
        if (later - one).abs().max() > 1e-4 * largest:
            raise MicroddspError(
                "changes with time, so that it has no frequency response",
                where=type(module).__name__,
            )
        impulse = torch.zeros(channels, samples + 1, dtype=torch.float64)
        impulse[:, 1] = 1.0
        answer: np.ndarray = exact(impulse)[..., 1:].double().numpy()
    return answer.reshape(-1, samples)


def frequency_response(
    module: torch.nn.Module, samples: int = 8192, *, channels: int = 1
) -> np.ndarray:
    """(channels, samples / 2 + 1) complex: the spectrum of the first `samples` of the impulse
    response.

    Raises:
        MicroddspError: The module is not linear and the same at all times.
    """
    return np.fft.rfft(impulse_response(module, samples, channels=channels))


def group_delay(impulse: np.ndarray) -> np.ndarray:
    """Samples by which each frequency is late, from impulse responses (..., samples); NaN where
    nothing comes through.

    It is the real part of the spectrum of n h(n) over that of h(n) (J. O. Smith, "Introduction to
    Digital Filters", 2007, "Numerical Computation of Group Delay").
    """
    spectrum = np.fft.rfft(impulse)
    weighted = np.fft.rfft(impulse * np.arange(impulse.shape[-1]))
    heard = np.abs(spectrum) > 1e-6 * np.abs(spectrum).max(-1, keepdims=True, initial=1e-30)
    return np.where(heard, np.real(weighted / np.where(heard, spectrum, 1.0)), np.nan)


def pass_band(spectrum: np.ndarray) -> tuple[int, int]:
    """The first and the last bin around the largest one that are at most 3 dB below it."""
    size = np.abs(spectrum)
    top = int(np.argmax(size))
    below = np.flatnonzero(size < size[top] / np.sqrt(2.0))
    left, right = below[below < top], below[below > top]
    first = int(left[-1]) + 1 if left.size else 0
    return first, int(right[0]) - 1 if right.size else size.size - 1
