"""Log-mel frames, and cheaper things that may be trained to give nearly the same."""

from __future__ import annotations

import numpy as np
import torch

from microddsp import dsp
from microddsp.dsp.spacing import mel_edges

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


class MatrixProducts(torch.nn.Module):
    """Band energies without a transform: a learned wave and its quadrature for each band, as one
    product of a frame with a matrix.

    The energy in a band is a quadratic form of the frame, by the transform and the mel weights;
    this is one of rank two. It starts at the middle of each band, with a window as long as the
    band is narrow.
    """

    def __init__(self, sample_rate_hz: float, bands: int) -> None:
        super().__init__()
        edges = np.array(mel_edges(bands + 1, LOW_HZ, HIGH_HZ, "MatrixProducts"))
        lengths = np.clip(4 * sample_rate_hz / (edges[2:] - edges[:-2]), 16, HOP)
        time = np.arange(HOP) - HOP / 2 + 0.5
        windows = np.cos(np.pi * np.clip(time / lengths[:, None], -0.5, 0.5)) ** 2
        phase = 2 * np.pi * edges[1:-1, None] / sample_rate_hz * time
        waves = np.concatenate([windows * np.cos(phase), windows * np.sin(phase)])
        # a convolution that moves by its own length: a product of each frame with the matrix
        self.waves = dsp.CausalConv1d(1, 2 * bands, HOP, stride=HOP, bias=False)
        self.waves.weight = torch.nn.Parameter(torch.tensor(waves[:, None], dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., 1, samples) to (..., bands, frames)."""
        real, imaginary = self.waves(x).square().chunk(2, -2)
        energy: torch.Tensor = real + imaginary
        return energy


def matrix_products(sample_rate_hz: float, bands: int) -> torch.nn.Sequential:
    """Learned products of frames of `HOP` in place of the transform and the mel bands."""
    decibels = dsp.Log.decibels(amin=QUIETEST)
    products = MatrixProducts(sample_rate_hz, bands)
    return _to_all_bands(torch.nn.Sequential(products, decibels), bands)


def _to_all_bands(features: torch.nn.Module, bands: int) -> torch.nn.Sequential:
    """A learned sum of what there is for each band of the reference, at first a line between
    neighbours, and a learned offset."""
    places = np.linspace(0, bands - 1, BANDS)
    line = np.maximum(1 - np.abs(places[:, None] - np.arange(bands)), 0)
    return torch.nn.Sequential(features, dsp.Mix(line), dsp.Offset([0.0] * BANDS))
