"""The pipeline: levels of five bands, 100 times a second, a small causal network, a counter."""

from __future__ import annotations

from collections import OrderedDict

import torch

from microddsp import dsp

HOP = 80  # samples for each level of a band
# Low and higher plops, their edge, what else is struck, clinks.
LOW_HZ = (30.0, 90.0, 180.0, 350.0, 1000.0)
HIGH_HZ = (90.0, 180.0, 350.0, 1000.0, 3600.0)
UNITS = 16
REFRACTORY_S = 0.2


def bank(sample_rate_hz: float) -> dsp.Filterbank:
    """Levels of the bands, one a hop."""
    return dsp.Filterbank.butterworth(
        LOW_HZ,
        HIGH_HZ,
        order=2,
        attack_s=0.001,
        release_s=0.01,
        sample_rate_hz=sample_rate_hz,
        hop=HOP,
    )


def head(levels_a_second: float) -> torch.nn.Sequential:
    """What is behind the bank and learned: patterns of levels of 90 ms, of 130 ms, then events.

    Levels are heard as logarithms, from about a fortieth of an average plop: what a distractor has
    more than a plop in all bands is then a number to subtract.
    """
    return torch.nn.Sequential(
        OrderedDict(
            log=dsp.Log(offset=1e-3),
            centre=dsp.Offset(4.0),
            scale=dsp.Gain(0.4),
            patterns=dsp.CausalConv1d(len(LOW_HZ), UNITS, 9),
            bend=torch.nn.ReLU(),
            evidence=dsp.CausalConv1d(UNITS, 1, 5),
            counter=dsp.EventCounter(
                0.5,
                release_threshold=0.0,
                refractory_s=REFRACTORY_S,
                sample_rate_hz=levels_a_second,
            ),
        )
    )


def with_bank(front: torch.nn.Module, behind: torch.nn.Sequential) -> torch.nn.Sequential:
    """Bank and head as one pipeline."""
    return torch.nn.Sequential(OrderedDict(bank=front, **dict(behind.named_children())))


def single_band(sample_rate_hz: float) -> torch.nn.Sequential:
    """To compare with: the level between 30 and 250 Hz and a threshold."""
    return torch.nn.Sequential(
        OrderedDict(
            band=dsp.Bandpass(30.0, 250.0, 2, sample_rate_hz=sample_rate_hz),
            envelope=dsp.Envelope(0.001, 0.03, sample_rate_hz=sample_rate_hz),
            counter=dsp.EventCounter(
                0.03, refractory_s=REFRACTORY_S, sample_rate_hz=sample_rate_hz
            ),
        )
    )
