"""Whole pipelines of the examples: samples to a count."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.signal
import torch
from torch import Tensor, nn

from benchmarks.device.counted import counts, follow, share
from benchmarks.device.job import Array, Job
from microddsp import dsp

PLOP_RATE_HZ, PLOP_BLOCK = 8000, 64
PLOP_BANDS_HZ = ((40.0, 250.0), (400.0, 1200.0), (1500.0, 3500.0))
PLOP_WEIGHTS = (-0.3, 1.0, -0.5)
PLOP_THRESHOLD = 0.03
HEART_RATE_HZ, HEART_BLOCK = 100, 20
HEART_BAND_HZ = (0.5, 4.0)
HEART_OFF = 20.0


class Sum(nn.Module):
    """Many channels to one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-2, keepdim=True)


class Spread(nn.Module):
    """One channel to many."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(*x.shape[:-2], self.channels, x.shape[-1])


class Quality(nn.Module):
    """An envelope compared with its usual height; 0 while that is low (see examples/heartbeat)."""

    def __init__(self) -> None:
        super().__init__()
        self.usual = dsp.Envelope(0.5, 3.0, sample_rate_hz=HEART_RATE_HZ, rectify="none")

    def forward(self, x: Tensor) -> Tensor:
        above = torch.relu(self.usual(x) - HEART_OFF)
        return x / (above + HEART_OFF) * above.clamp(0.0, 1.0)


def pipelines() -> list[Job]:
    """Plops of an airlock, beats of a heart."""
    return [_plops(), _heart()]


def _sections(low_hz: float, high_hz: float, rate_hz: float) -> Array:
    band = [low_hz, high_hz]
    return np.asarray(scipy.signal.butter(4, band, "bandpass", fs=rate_hz, output="sos"))


def _plops() -> Job:
    signal = _rings().reshape(-1, 1, PLOP_BLOCK)
    filters = [_sections(low, high, PLOP_RATE_HZ) for low, high in PLOP_BANDS_HZ]
    attack, release = (share(s, PLOP_RATE_HZ) for s in (0.004, 0.04))
    whole = signal.reshape(-1).astype("float64")
    levels = sum(
        weight * follow(np.abs(scipy.signal.sosfilt(sos, whole)), attack, release)
        for weight, sos in zip(PLOP_WEIGHTS, filters, strict=True)
    )
    high, low, refractory = PLOP_THRESHOLD, PLOP_THRESHOLD / 2, round(0.3 * PLOP_RATE_HZ)
    expected = counts(levels, high, low, refractory, PLOP_BLOCK)
    assert expected[-1] == 6, "the plops' signal does not hold six plops"

    def module() -> nn.Module:
        lows, highs = zip(*PLOP_BANDS_HZ, strict=True)
        rate: dict[str, Any] = {"sample_rate_hz": PLOP_RATE_HZ}
        return nn.Sequential(
            Spread(len(lows)),
            dsp.Bandpass(lows, highs, 4, **rate),
            dsp.Envelope([0.004] * len(lows), [0.04] * len(lows), **rate),
            dsp.Gain(PLOP_WEIGHTS),
            Sum(),
            dsp.EventCounter(high, hysteresis=0.5, refractory_s=0.3, **rate),
        )

    return Job(
        key="plops",
        title=f"plops: 3 bands of 4 biquads, envelopes, mix, counter, block {PLOP_BLOCK}",
        kind="plops",
        signal=signal,
        expected=expected,
        module=module,
        parameters={
            **{"filters": filters, "weights": PLOP_WEIGHTS, "attack": attack, "release": release},
            **{"high": high, "low": low, "refractory": refractory},
        },
    )


def _rings() -> Array:
    """Six decaying tones in the middle band, and knocks in the low one, over some noise."""
    rng = np.random.default_rng(6)
    samples = 64 * PLOP_BLOCK * 4
    x = 0.01 * rng.standard_normal(samples)
    t = np.arange(samples) / PLOP_RATE_HZ
    for i in range(6):
        since = t - (0.15 + 0.32 * i)
        x += np.where(since >= 0, 0.5 * np.exp(-since / 0.03) * np.sin(4400.0 * since), 0.0)
        since = t - (0.31 + 0.32 * i)
        x += np.where(since >= 0, 0.5 * np.exp(-since / 0.03) * np.sin(600.0 * since), 0.0)
    return x.astype("float32")


def _heart() -> Job:
    signal = _pulse().reshape(-1, 1, HEART_BLOCK)
    sos = _sections(*HEART_BAND_HZ, HEART_RATE_HZ)
    whole = signal.reshape(-1).astype("float64")
    settled = scipy.signal.sosfilt_zi(sos)
    band, _ = scipy.signal.sosfilt(sos, whole, zi=settled * whole[0])
    fast = [share(s, HEART_RATE_HZ) for s in (0.01, 0.05)]
    slow = [share(s, HEART_RATE_HZ) for s in (0.5, 3.0)]
    envelope = follow(np.abs(band), *fast)
    above = (follow(envelope, *slow) - HEART_OFF).clip(0.0)
    quality = envelope / (above + HEART_OFF) * above.clip(0.0, 1.0)
    refractory = round(0.3 * HEART_RATE_HZ)
    expected = counts(quality, 1.0, 0.6, refractory, HEART_BLOCK)
    assert expected[-1] >= 20, "the heart's signal holds too few beats to check a count"

    def module() -> nn.Module:
        rate: dict[str, Any] = {"sample_rate_hz": HEART_RATE_HZ}
        return nn.Sequential(
            dsp.Bandpass(*HEART_BAND_HZ, 4, initial="first_sample", **rate),
            dsp.Envelope(0.01, 0.05, **rate),
            Quality(),
            dsp.EventCounter(1.0, hysteresis=0.6, refractory_s=0.3, **rate),
        )

    return Job(
        key="heart",
        title=f"heart: 4 biquads, envelope, quality, counter, block {HEART_BLOCK}",
        kind="heart",
        signal=signal,
        expected=expected,
        module=module,
        parameters={
            **{"sos": sos, "settled": settled, "fast": fast, "slow": slow, "off": HEART_OFF},
            **{"high": 1.0, "low": 0.6, "refractory": refractory},
        },
    )


def _pulse() -> Array:
    """40 s of a pulse in ADC steps, over the offset of its light."""
    t = np.arange(40 * HEART_RATE_HZ) / HEART_RATE_HZ
    phase = 2 * np.pi * 1.2 * t + 0.5 * np.sin(2 * np.pi * 0.1 * t)
    noise = np.random.default_rng(7).standard_normal(t.size)
    wave = 120.0 * np.exp(4.0 * (np.cos(phase) - 1.0)) + 8.0 * np.sin(2 * np.pi * 0.2 * t) + noise
    return (512.0 + wave).astype("float32")
