"""Made-up sounds for training: what strikes, rings, hisses or chatters, of any pitch and length."""

from __future__ import annotations

import numpy as np
from scipy.signal import butter, sosfilt

LONGEST_S = 1.2
HZ = (35.0, 3500.0)


def made(random: np.random.Generator, rate: int) -> np.ndarray:
    """One to four ringings or hisses that fade, begun together or within 30 ms; some chatter."""
    time = np.arange(round(LONGEST_S * rate)) / rate
    sound = np.zeros(len(time))
    centre = np.exp(random.uniform(*np.log(HZ)))
    spread = random.choice([0.3, 2.0])  # parts around one pitch, or anywhere
    for _ in range(random.integers(1, 5)):
        hz = float(np.clip(centre * np.exp(random.normal(0, spread)), *HZ))
        tone = _ringing(hz, time, random) if random.uniform() < 0.6 else _hiss(hz, time, random)
        sound += 10 ** (random.uniform(-24, 0) / 20) * tone * _course(time, random)
    return sound


def murmur(random: np.random.Generator, rate: int, samples: int) -> np.ndarray:
    """An ambience: noise below some pitch, which swells, and faint sounds, up to four a second."""
    edge_hz = np.exp(random.uniform(*np.log(HZ)))
    noise = sosfilt(butter(1, edge_hz, fs=rate, output="sos"), random.normal(size=samples))
    noise /= np.sqrt(np.mean(noise**2))
    swell = np.sin(np.pi * random.uniform(0, 1) * np.arange(samples) / rate)
    sound = noise * (1 + random.uniform(-0.8, 0.8) * swell)
    for _ in range(random.poisson(random.uniform(0, 4) * samples / rate)):
        begin = random.integers(samples)
        part = sound[begin : begin + round(LONGEST_S * rate)]
        part += random.uniform(0, 8) * made(random, rate)[: len(part)]
    return sound


def _ringing(hz: float, time: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A tone that falls or rises in pitch by up to a third, and its overtones."""
    glide = 1 + random.uniform(-0.3, 0.5) * np.exp(-time / random.uniform(0.01, 0.1))
    phase = 2 * np.pi * np.cumsum(hz * glide) * time[1]
    return np.sin(phase) + random.uniform(0, 0.3) * np.sin(random.uniform(1.5, 3) * phase)


def _hiss(hz: float, time: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Noise in a band of an octave or two."""
    width = random.uniform(1.2, 2.0)
    edges = (hz / width, min(hz * width, 0.49 / time[1]))
    noise = sosfilt(
        butter(1, edges, "bandpass", fs=1 / time[1], output="sos"), random.normal(size=len(time))
    )
    return noise / np.sqrt(np.mean(noise**2))


def _course(time: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A fade after an attack of up to 10 ms, or bursts until a sudden end."""
    if random.uniform() < 0.3:
        pulses = np.sin(np.pi * random.uniform(2, 30) * time + random.uniform(0, np.pi))
        return np.abs(pulses) ** random.uniform(0.3, 4) * (time < random.uniform(0.1, LONGEST_S))
    attack_s, begin_s = random.uniform(0.0005, 0.01), random.choice([0, random.uniform(0, 0.03)])
    decay_s = np.exp(random.uniform(*np.log((0.008, 0.4))))
    since = np.maximum(time - begin_s, 0)
    return np.minimum(since / attack_s, 1) * np.exp(-since / decay_s)
