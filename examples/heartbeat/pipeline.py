"""Band-pass, envelope, signal quality, event counter; learned from counts but for one level."""

from __future__ import annotations

from collections import OrderedDict

import torch

from microddsp import dsp

# ADC steps: what is lower than this is no pulse but a sensor that nobody wears. A property
# of the sensor: both recordings are from ADCs of 10 bits. Not learned.
OFF = 20.0
# How much of an envelope is taken away for each ADC step that the usual height lacks.
SHUT = 10.0


class Quality(torch.nn.Module):
    """How high an envelope (..., channels, samples) is compared with its usual height; below zero,
    but for violent shocks, while that is below `off`.

    The usual height follows within a beat and forgets in some. A ratio counts the same at
    any light or gain; alone it would count the noise of a sensor that lies on the table.
    """

    def __init__(self, off: float, sample_rate_hz: float) -> None:
        super().__init__()
        self.off = off
        self.usual = dsp.Envelope(0.5, 3.0, sample_rate_hz=sample_rate_hz, rectify="none")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        usual = self.usual(x)
        lacking = torch.relu(max(self.off, 1e-3) - usual)
        # the divisor is the higher one of `off` and `usual`: one comparison serves both
        return (x - SHUT * lacking) / (usual + lacking)


def pipeline(
    sample_rate_hz: float,
    low_hz: float = 0.5,
    high_hz: float = 4.0,
    threshold: float = 1.0,
    off: float = OFF,
) -> torch.nn.Sequential:
    """A counter of pulses with textbook start values: a heart beats between 0.5 and 4 Hz.

    The first sample settles the band-pass, so that the sensor's offset is no event.
    """
    return torch.nn.Sequential(
        OrderedDict(
            band=dsp.Bandpass(
                low_hz, high_hz, 4, sample_rate_hz=sample_rate_hz, initial="first_sample"
            ),
            envelope=dsp.Envelope(0.01, 0.05, sample_rate_hz=sample_rate_hz),
            quality=Quality(off, sample_rate_hz),
            counter=dsp.EventCounter(
                threshold, hysteresis=0.6, refractory_s=0.3, sample_rate_hz=sample_rate_hz
            ),
        )
    )


def starts(sample_rate_hz: float) -> list[torch.nn.Module]:
    """Start values for training: bands on a coarse grid; the first is the textbook's."""
    return [
        pipeline(sample_rate_hz, low, high) for low, high in ((0.5, 4.0), (0.5, 8.0), (1.0, 8.0))
    ]
