"""Losses between spectra: what a signal sounds like, whatever its phase.

Frames that hold an unknown sample do not count; `known` is (..., samples) as in `losses`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from microddsp.errors import ParameterError, SignalError
from microddsp.training.losses import l1, masked, mean_known

# Magnitudes below this share of full scale are silence.
_FLOOR = 1e-6


def spectral(
    output: Tensor,
    target: Tensor,
    known: Tensor | None = None,
    *,
    size: int = 1024,
    hop: int | None = None,
) -> Tensor:
    """Spectral convergence plus mean difference of log magnitudes, one resolution.

    Args:
        output, target: (..., channels, samples).
        size: Samples of a Hann window, even; a shorter signal takes one window of its own length.
        hop: From one window to the next; size / 4 if not given.

    Source: R. Yamamoto et al., "Parallel WaveGAN", ICASSP 2020, equations 3 to 5; the signals of
    a batch are weighted alike.
    """
    one, other, frames = _spectra(output, target, known, size, hop)
    place = None if frames is None else frames[..., None, None, :]
    if place is not None:
        one, other = torch.where(place, one, 0.0), torch.where(place, other, 0.0)
    # of silence nothing is a share: there only the logarithms tell
    height = _norm(other)
    heard = height > _FLOOR * (other.shape[-2] * other.shape[-1]) ** 0.5
    convergence = torch.where(heard, _norm(one - other) / height, 0.0).mean()
    logs = torch.log(one + _FLOOR) - torch.log(other + _FLOOR)
    return convergence + mean_known(logs.abs().mean(-2), frames)


def multi_resolution_spectral(
    output: Tensor,
    target: Tensor,
    known: Tensor | None = None,
    *,
    sizes: Sequence[int] = (512, 1024, 2048),
) -> Tensor:
    """Mean of `spectral` over window sizes: short ones see time, long ones frequency."""
    if not sizes:
        raise ParameterError("give at least one window size", where="multi_resolution_spectral")
    losses = [spectral(output, target, known, size=size) for size in sizes]
    return torch.stack(losses).mean()


def mel(
    output: Tensor,
    target: Tensor,
    known: Tensor | None = None,
    *,
    sample_rate_hz: float,
    bands: int = 40,
    low_hz: float = 0.0,
    high_hz: float | None = None,
    size: int = 1024,
    hop: int | None = None,
) -> Tensor:
    """Mean absolute difference of log mel magnitudes (natural logarithm).

    Raises:
        ParameterError: Edges out of order, or more bands than the window can tell apart.
    """
    one, other, frames = _spectra(output, target, known, size, hop)
    high = sample_rate_hz / 2 if high_hz is None else high_hz
    size = 2 * (one.shape[-2] - 1)
    weights = torch.from_numpy(mel_weights(size, bands, sample_rate_hz, low_hz, high)).to(one)
    logs = [torch.log(weights @ spectrum + _FLOOR) for spectrum in (one, other)]
    shape = (*logs[0].shape[:-3], -1, logs[0].shape[-1])
    return l1(logs[0].reshape(shape), logs[1].reshape(shape), frames)


@lru_cache(16)
def mel_weights(
    size: int, bands: int, sample_rate_hz: float, low_hz: float, high_hz: float
) -> np.ndarray:
    """(bands, size / 2 + 1) triangles, equally wide in mel.

    Source: D. O'Shaughnessy, "Speech Communication", 1987: mel = 2595 log10(1 + f / 700).

    Raises:
        ParameterError: Edges out of order, or a band without any bin of the spectrum.
    """
    if not 0 <= low_hz < high_hz <= sample_rate_hz / 2 or bands < 1:
        raise ParameterError(f"no {bands} bands fit between {low_hz:g} and {high_hz:g} Hz")
    limits = 2595 * np.log10(1 + np.array([low_hz, high_hz]) / 700)
    edges = 700 * (10 ** (np.linspace(limits[0], limits[1], bands + 2) / 2595) - 1)
    bins = np.arange(size // 2 + 1) * sample_rate_hz / size
    low, centre, high = (edges[i : i + bands, None] for i in range(3))
    weights = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clip(0)
    if not weights.any(-1).all():
        raise ParameterError(
            f"{bands} mel bands are more than a spectrum of {size} samples can tell apart",
            hint="fewer bands, or a longer window",
        )
    return weights


def _spectra(
    output: Tensor, target: Tensor, known: Tensor | None, size: int, hop: int | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Magnitudes (..., channels, bins, frames) of both, and which frames are known."""
    output, target, known = masked(output, target, known)
    samples = output.shape[-1]
    if samples < 4 or size < 4 or size % 2:
        raise SignalError(
            f"{samples} samples give no spectrum over windows of {size}",
            hint="windows are of an even number of samples, 4 at least",
        )
    size = min(size, samples // 2 * 2)
    hop = max(1, size // 4) if hop is None else hop
    if hop < 1:
        raise ParameterError(f"hop must be at least 1, got {hop}", where="spectral")
    window = torch.hann_window(size, dtype=output.dtype, device=output.device)
    scale = 2 / float(window.sum())  # a sine of amplitude 1 has magnitude 1
    one, other = (
        scale * _magnitude(torch.fft.rfft(signal.unfold(-1, size, hop) * window))
        for signal in (output, target)
    )
    frames = None if known is None else known.unfold(-1, size, hop).all(-1)
    return one, other, frames


def _magnitude(spectrum: Tensor) -> Tensor:
    # the modulus has no derivative at zero
    power = spectrum.real.square() + spectrum.imag.square()
    return torch.sqrt(power + 1e-14).transpose(-1, -2)


def _norm(values: Tensor) -> Tensor:
    return torch.sqrt(values.square().sum((-2, -1)) + _FLOOR**2)
