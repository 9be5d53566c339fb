"""A counter of plops in which everything behind the band limit may run at a lower rate."""

from __future__ import annotations

from collections import OrderedDict

import torch

from microddsp import dsp
from microddsp.training.relaxations import BandLimit

THRESHOLD = 0.15
ORDER = 4


def learned_rate(sample_rate_hz: float, start_hz: float = 3000.0) -> torch.nn.Sequential:
    """The band limit is the upper edge of the band that is listened to, and has a cost."""
    limit = BandLimit(start_hz, ORDER, sample_rate_hz=sample_rate_hz)
    return torch.nn.Sequential(OrderedDict(limit=limit, **_behind(sample_rate_hz)))


def fixed_rate(sample_rate_hz: float, factor: int, start_hz: float = 3000.0) -> torch.nn.Sequential:
    """The same filters, those behind the low-pass at a rate chosen by hand."""
    rate = sample_rate_hz / factor
    limit: torch.nn.Module = dsp.Lowpass(
        min(start_hz, rate / 3), ORDER, sample_rate_hz=sample_rate_hz
    )
    if factor > 1:
        limit = torch.nn.Sequential(limit, dsp.Decimate(factor))
    return torch.nn.Sequential(OrderedDict(limit=limit, **_behind(rate)))


def _behind(rate_hz: float) -> dict[str, torch.nn.Module]:
    return {
        "thumps": dsp.Highpass(min(500.0, 0.3 * rate_hz), 2, sample_rate_hz=rate_hz),
        "envelope": dsp.Envelope(0.003, 0.02, sample_rate_hz=rate_hz),
        "counter": dsp.EventCounter(
            THRESHOLD, hysteresis=0.5, refractory_s=0.1, sample_rate_hz=rate_hz
        ),
    }
