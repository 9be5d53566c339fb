"""Where the bands of a filterbank lie."""

from __future__ import annotations

import numpy as np

from microddsp.dsp.block import positive, whole
from microddsp.errors import ParameterError

# B. R. Glasberg and B. C. J. Moore, 1990: the ear's bandwidth is f / EAR_Q + LEAST_BAND_HZ
LEAST_BAND_HZ = 24.7
EAR_Q = 1 / (LEAST_BAND_HZ * 4.37e-3)


def mel_edges(bands: int, low_hz: float, high_hz: float, where: str) -> list[float]:
    """bands + 1 frequencies in Hz, evenly spaced on O'Shaughnessy's mel scale.

    Raises:
        ParameterError: Not 0 <= low_hz < high_hz, or no bands.
    """
    count = _checked(bands, low_hz, high_hz, where)
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (low_hz, high_hz))
    edges = 700 * (10 ** (np.linspace(low, high, count + 1) / 2595) - 1)
    edges[0], edges[-1] = low_hz, high_hz  # not a rounding error past half the sample rate
    return [float(hz) for hz in edges]


def erb_centres(bands: int, low_hz: float, high_hz: float, where: str) -> list[float]:
    """Frequencies in Hz from low_hz to below high_hz, evenly spaced in the ear's bandwidths.

    Raises:
        ParameterError: Not 0 <= low_hz < high_hz, or no bands.

    Source: M. Slaney, "An efficient implementation of the Patterson-Holdsworth auditory filter
    bank", Apple technical report 35, 1993 (ERBSpace, lowest first).
    """
    count = _checked(bands, low_hz, high_hz, where)
    shift = EAR_Q * LEAST_BAND_HZ
    steps = np.arange(count, 0, -1) / count
    centres = -shift + (high_hz + shift) * ((low_hz + shift) / (high_hz + shift)) ** steps
    return [float(hz) for hz in centres]


def _checked(bands: int, low_hz: float, high_hz: float, where: str) -> int:
    positive("high_hz", high_hz, where)
    if not 0 <= low_hz < high_hz:
        raise ParameterError(
            f"frequencies must be 0 <= low_hz < high_hz, got {low_hz} and {high_hz}", where=where
        )
    return whole("bands", bands, where)
