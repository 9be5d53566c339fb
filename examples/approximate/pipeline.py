"""Log-mel frames, and cheaper things that may be trained to give nearly the same."""

from __future__ import annotations

import numpy as np
import torch

from microddsp import dsp

BANDS = 16
LENGTH, HOP = 256, 128
LOW_HZ, HIGH_HZ = 60.0, 3900.0
QUIETEST = 1e-8


class FirstChannel(torch.nn.Module):
    """(..., 1, bands, frames) to (..., bands, frames): bands become channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(-3, -2)


def log_mel(
    sample_rate_hz: float, bands: int = BANDS, length: int = LENGTH, *, learnable: bool = False
) -> torch.nn.Sequential:
    """Decibels in mel bands of frames, one every `HOP` samples."""
    return torch.nn.Sequential(
        dsp.LogMel(
            bands,
            length,
            HOP,
            sample_rate_hz=sample_rate_hz,
            f_min_hz=LOW_HZ,
            f_max_hz=HIGH_HZ,
            learnable=learnable,
            log=dsp.Log.decibels(amin=QUIETEST),
        ),
        FirstChannel(),
    )


def shorter_frames(sample_rate_hz: float, bands: int) -> torch.nn.Sequential:
    """Frames of half the length, which do not overlap, and perhaps fewer bands."""
    return _to_all_bands(log_mel(sample_rate_hz, bands, HOP, learnable=True), bands)


def filterbank(sample_rate_hz: float, bands: int) -> torch.nn.Sequential:
    """Filters and envelopes in the time domain in place of the transform."""
    bank = dsp.Filterbank.mel(
        bands,
        LOW_HZ,
        HIGH_HZ,
        sample_rate_hz=sample_rate_hz,
        hop=HOP,
        attack_s=0.004,
        release_s=0.006,
    )
    decibels = dsp.Log.decibels(magnitude=True, amin=QUIETEST**0.5)
    return _to_all_bands(torch.nn.Sequential(bank, decibels), bands)


def _to_all_bands(features: torch.nn.Module, bands: int) -> torch.nn.Sequential:
    """A learned sum of what there is for each band of the reference, at first a line between
    neighbours, and a learned offset."""
    places = np.linspace(0, bands - 1, BANDS)
    line = np.maximum(1 - np.abs(places[:, None] - np.arange(bands)), 0)
    return torch.nn.Sequential(features, dsp.Mix(line), dsp.Offset([0.0] * BANDS))
