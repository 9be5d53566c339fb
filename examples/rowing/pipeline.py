"""The pipeline: a learned direction, a learned band, a counter with learned thresholds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

from microddsp import dsp


class Sum(torch.nn.Module):
    """Many channels to one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(-2, keepdim=True)


def pipeline(
    sample_rate_hz: float,
    direction: Sequence[float] = (-1.0, 0.0, 0.0),
    band_hz: tuple[float, float] = (0.5, 3.0),
    threshold: float = 1.0,
    refractory_s: float = 0.8,
) -> torch.nn.Sequential:
    """Count peaks of the acceleration (m/s^2) along a direction; the first sample settles gravity.

    The start listens against the direction of travel: a stroke begins with the boat being checked.
    """
    return torch.nn.Sequential(
        OrderedDict(
            direction=dsp.Gain(direction),
            sum=Sum(),
            band=dsp.Bandpass(*band_hz, 2, sample_rate_hz=sample_rate_hz, initial="first_sample"),
            counter=dsp.EventCounter(
                threshold,
                hysteresis=0.5,
                refractory_s=refractory_s,
                sample_rate_hz=sample_rate_hz,
            ),
        )
    )
