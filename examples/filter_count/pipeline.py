"""A counter of plops that hears with a bank of filters, each behind a gate that may close."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch

from microddsp import dsp
from microddsp.training.relaxations import GatedSum

LOW_HZ, HIGH_HZ = 150.0, 3600.0
GAIN = 2.5  # puts the noise in all bands together a little below the threshold
START = 0.25


def edges_hz(candidates: int) -> list[float]:
    """Of the candidates, side by side."""
    return [float(hz) for hz in np.geomspace(LOW_HZ, HIGH_HZ, candidates + 1)]


def band(low_hz: float, high_hz: float, sample_rate_hz: float) -> torch.nn.Sequential:
    """How loud it is between two frequencies."""
    return torch.nn.Sequential(
        dsp.Bandpass(low_hz, high_hz, 1, sample_rate_hz=sample_rate_hz),
        dsp.Envelope(0.003, 0.02, sample_rate_hz=sample_rate_hz),
    )


def gated(sample_rate_hz: float, candidates: int) -> torch.nn.Sequential:
    """All candidates. Only gates, refractory gap and density are learned: filters that move would
    all move to the same place, and a threshold that sinks would make small gates cheap."""
    edges = edges_hz(candidates)
    bands = [band(*pair, sample_rate_hz) for pair in zip(edges[:-1], edges[1:], strict=True)]
    counter = dsp.EventCounter(1.0, hysteresis=0.6, refractory_s=0.1, sample_rate_hz=sample_rate_hz)
    counter.level.requires_grad_(False)
    return torch.nn.Sequential(
        OrderedDict(
            gain=dsp.Gain(GAIN).requires_grad_(False),
            bank=GatedSum([b.requires_grad_(False) for b in bands], start=START),
            counter=counter,
        )
    )
