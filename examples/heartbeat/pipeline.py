"""The pipeline: band-pass, power envelope, event counter; all of it learned from counts."""

from __future__ import annotations

from collections import OrderedDict

import torch

from microddsp import dsp

# Raw samples are ADC steps; one unit of the envelope's threshold is 100 of them, squared.
SCALE = 0.01


def pipeline(
    sample_rate_hz: float,
    low_hz: float = 0.5,
    high_hz: float = 4.0,
    threshold: float = 0.5,
) -> torch.nn.Sequential:
    """A counter of pulses with textbook start values: a heart beats between 0.5 and 4 Hz.

    The first sample settles the band-pass, so that the sensor's offset is no event.
    """
    scale = dsp.Gain(SCALE)
    scale.gain.requires_grad_(False)
    return torch.nn.Sequential(
        OrderedDict(
            band=dsp.Bandpass(
                low_hz, high_hz, 4, sample_rate_hz=sample_rate_hz, initial="first_sample"
            ),
            scale=scale,
            envelope=dsp.Envelope(0.01, 0.05, sample_rate_hz=sample_rate_hz, rectify="square"),
            counter=dsp.EventCounter(
                threshold, hysteresis=0.5, refractory_s=0.3, sample_rate_hz=sample_rate_hz
            ),
        )
    )


def starts(sample_rate_hz: float) -> list[torch.nn.Module]:
    """Start values for training: bands and thresholds on a coarse grid."""
    return [
        pipeline(sample_rate_hz, low, high, threshold)
        for low, high in ((0.5, 4.0), (0.5, 8.0), (1.0, 8.0))
        for threshold in (0.3, 1.0)
    ]
