"""Simulated plops in audio: short ringings to count, among thumps, clicks, hum and noise.

Numbers are assumptions. A thump is lower than a plop, a click higher and shorter; both may be
twice as loud.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from microddsp.training import Windows, cut_windows

RATE = 16000  # samples per second unless told
WINDOW_S = 2.0  # one count is known for each
SETTLE_S = 0.24
LENGTH_S = 0.12  # of what is left of a sound
GAP_S = 0.25  # at least, between two sounds
HUM_HZ = 50.0
NOISE = 0.3


@dataclass(frozen=True)
class Sound:
    """A ringing that fades: Hz and height between two limits, seconds to 1/e."""

    hz: tuple[float, float]
    height: tuple[float, float]
    decay_s: float


PLOP = Sound((820.0, 1000.0), (0.4, 0.8), 0.020)
OTHERS = (Sound((300.0, 420.0), (0.4, 1.6), 0.030), Sound((2200.0, 3000.0), (0.4, 1.6), 0.006))


@dataclass(frozen=True)
class Recording:
    """Samples, and those at which plops and other sounds begin."""

    sample_rate_hz: int
    samples: np.ndarray
    plops: np.ndarray
    others: np.ndarray

    @property
    def signal(self) -> torch.Tensor:
        """(1, samples)."""
        return torch.tensor(self.samples[None])


def record(seconds: float, seed: int, rate: int = RATE, noise: float = NOISE) -> Recording:
    """In each window of two seconds up to seven sounds; which share are plops differs."""
    random = np.random.default_rng(seed)
    samples = round(seconds * rate)
    time = np.arange(samples) / rate
    signal = random.normal(0, noise, samples)
    signal += 0.2 * np.sin(2 * np.pi * HUM_HZ * time + random.uniform(0, 2 * np.pi))
    begins: tuple[list[int], list[int]] = ([], [])
    for window in range(round(seconds / WINDOW_S)):
        slots = random.permutation(round(WINDOW_S / GAP_S) - 1)[: random.integers(0, 8)]
        share = random.uniform()
        for slot in slots:
            begin = round((window * WINDOW_S + (slot + random.uniform(0.1, 0.5)) * GAP_S) * rate)
            plop = bool(random.uniform() < share)
            begins[not plop].append(begin)
            heard = _heard(PLOP if plop else OTHERS[random.integers(len(OTHERS))], rate, random)
            signal[begin : begin + len(heard)] += heard
    plops, others = (np.sort(np.array(b, dtype=int)) for b in begins)
    return Recording(rate, signal.astype("float32"), plops, others)


def _heard(sound: Sound, rate: int, random: np.random.Generator) -> np.ndarray:
    time = np.arange(round(LENGTH_S * rate)) / rate
    ringing = np.exp(-time / sound.decay_s) * np.sin(2 * np.pi * random.uniform(*sound.hz) * time)
    return random.uniform(*sound.height) * ringing


def cut(recording: Recording) -> Windows:
    """Windows of two seconds with a count each, and a lead-in."""
    return cut_windows(
        recording.signal,
        torch.tensor(recording.plops),
        length_s=WINDOW_S,
        settle_s=SETTLE_S,
        sample_rate_hz=recording.sample_rate_hz,
    )
