"""The pipeline: three learned bands, their envelopes, a learned mixture of them, a counter."""

from __future__ import annotations

from collections import OrderedDict

import torch

from microddsp import dsp

# Start values: thumps, plops, clinks.
LOW_HZ = (40.0, 400.0, 1500.0)
HIGH_HZ = (250.0, 1200.0, 3500.0)
WEIGHTS = (-0.3, 1.0, -0.5)


class Spread(torch.nn.Module):
    """One channel to many."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(*x.shape[:-2], self.channels, x.shape[-1])


class Sum(torch.nn.Module):
    """Many channels to one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(-2, keepdim=True)


def pipeline(sample_rate_hz: float, threshold: float = 0.03) -> torch.nn.Sequential:
    """A counter of plops: what rings between thumps and clinks, less what both leave there."""
    bands = len(WEIGHTS)
    return torch.nn.Sequential(
        OrderedDict(
            spread=Spread(bands),
            bands=dsp.Bandpass(LOW_HZ, HIGH_HZ, 4, sample_rate_hz=sample_rate_hz),
            envelopes=dsp.Envelope([0.004] * bands, [0.04] * bands, sample_rate_hz=sample_rate_hz),
            weights=dsp.Gain(WEIGHTS),
            mix=Sum(),
            counter=dsp.EventCounter(
                threshold, hysteresis=0.5, refractory_s=0.3, sample_rate_hz=sample_rate_hz
            ),
        )
    )


def starts(sample_rate_hz: float) -> list[torch.nn.Module]:
    """Start values for training: two thresholds."""
    return [pipeline(sample_rate_hz, threshold) for threshold in (0.03, 0.05)]
