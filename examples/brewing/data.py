"""Recorded sounds at known times over recorded ambience, from Debian's `sonic-pi-samples` (CC0)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

FOLDER = Path("/usr/share/sonic-pi/samples")
RATE = 8000
WINDOW_S = 6.0  # one count is known for each
LEVEL = 0.1  # root mean square of the loudest 50 ms of an average plop
LOUDEST = RATE // 20
RESONANCE_HZ = (400.0, 1200.0)
PERCUSSION = ("bd", "drum", "elec", "perc", "sn", "tabla")
TRAINING_AMBIENCE = (
    "ambi_dark_woosh",
    "ambi_drone",
    "ambi_glass_hum",
    "ambi_lunar_land",
    "vinyl_hiss",
)
HELD_OUT_AMBIENCE = ("ambi_haunted_hum", "ambi_sauna", "loop_3d_printer", "vinyl_rewind")


@dataclass(frozen=True)
class Sounds:
    """Names of files."""

    plops: tuple[str, ...]
    distractors: tuple[str, ...]
    ambience: tuple[str, ...]


@dataclass(frozen=True)
class Recording:
    """Samples at 8 kHz and the sample numbers at which sounds begin."""

    name: str
    samples: np.ndarray
    plops: np.ndarray
    distractors: np.ndarray


def split() -> tuple[Sounds, Sounds]:
    """Sounds for training and held-out ones, by a rule, not by ear.

    A plop is a percussive sound that stays within 20 dB of its loudest 50 ms for at most 0.3 s
    and has at least half of the energy of those 50 ms between 400 and 1200 Hz, where small bubbles
    and pots ring. One with at most a fifth there is a distractor if it lasts at most 1.5 s; what
    lies between is not used. Of both lists, by name, the first, third, ... are for training.
    """
    plops, distractors = [], []
    for path in sorted(FOLDER.glob("*.flac")):
        if path.stem.split("_")[0] in PERCUSSION:
            share, length_s = _resonance(path.stem)
            if share >= 0.5 and length_s <= 0.3:
                plops.append(path.stem)
            elif share <= 0.2 and length_s <= 1.5:
                distractors.append(path.stem)
    return (
        Sounds(tuple(plops[::2]), tuple(distractors[::2]), TRAINING_AMBIENCE),
        Sounds(tuple(plops[1::2]), tuple(distractors[1::2]), HELD_OUT_AMBIENCE),
    )


def record(sounds: Sounds, seconds: float, seed: int, speeds: float = 0.1) -> list[Recording]:
    """One recording over each ambience: in every 6 s 0 to 5 plops and 0 to 5 distractors.

    Plops vary by 3 dB to both sides, distractors are 3 to 12 dB louder than an average plop, the
    ambience is 14 to 24 dB below it. Every sound is played slower or faster by up to `speeds`.
    Beginnings are at least 0.4 s apart and 0.2 s from the border of a window; tails overlap
    with whatever follows.
    """
    random = np.random.default_rng(seed)
    windows = round(seconds / WINDOW_S)
    return [_record(sounds, name, windows, random, round(100 * speeds)) for name in sounds.ambience]


def read(path: Path) -> np.ndarray:
    """One channel at 8 kHz."""
    samples, rate = soundfile.read(path, always_2d=True)
    return resample_poly(samples.mean(1), RATE, rate) if rate != RATE else samples.mean(1)


def _record(
    sounds: Sounds, name: str, windows: int, random: np.random.Generator, percent: int
) -> Recording:
    length = round(WINDOW_S * RATE)
    signal = _gain(random.uniform(-24, -14)) * _endless(name, windows * length, random)
    begins: dict[tuple[str, ...], list[int]] = {sounds.plops: [], sounds.distractors: []}
    for window in range(windows):
        times = iter(_times(random, 10) + window * length)
        for names, low, high in ((sounds.plops, -3, 3), (sounds.distractors, 3, 12)):
            for _ in range(random.integers(0, 6)):
                begin = next(times)
                speed = 100 + int(random.integers(-percent, percent + 1))
                sound = _short(names[random.integers(len(names))], speed)
                part = signal[begin : begin + len(sound)]
                part += _gain(random.uniform(low, high)) * sound[: len(part)]
                begins[names].append(begin)
    plops, distractors = (np.array(sorted(b)) for b in begins.values())
    return Recording(name, signal.astype("float32"), plops, distractors)


def _times(random: np.random.Generator, count: int) -> np.ndarray:
    """Samples of a window at which sounds may begin, in random order."""
    slot = (WINDOW_S - 0.4) / count
    times = 0.2 + slot * np.arange(count) + random.uniform(0, slot - 0.4, count)
    return random.permutation(np.round(times * RATE).astype(int))


def _gain(decibels: float) -> float:
    return float(LEVEL * 10 ** (decibels / 20))


@functools.cache
def _short(name: str, speed_percent: int = 100) -> np.ndarray:
    """A sound from its beginning, its loudest 50 ms at a root mean square of 1."""
    sound = read(FOLDER / f"{name}.flac")
    if speed_percent != 100:
        sound = resample_poly(sound, 100, speed_percent)
    begin = np.nonzero(np.abs(sound) > 0.05 * np.abs(sound).max())[0][0]
    return sound[max(0, begin - 8) :] / np.sqrt(_power(sound).max())


def _power(sound: np.ndarray) -> np.ndarray:
    return np.convolve(sound**2, np.ones(LOUDEST) / LOUDEST)


def _resonance(name: str) -> tuple[float, float]:
    """Share of the energy of the loudest 50 ms in the band, and the length in seconds."""
    sound = _short(name)
    power = _power(sound)
    end = int(power.argmax()) + 1
    spectrum = np.abs(np.fft.rfft(sound[max(0, end - LOUDEST) : end], 4096)) ** 2
    hz = np.fft.rfftfreq(4096, 1 / RATE)
    inside = spectrum[(hz > RESONANCE_HZ[0]) & (hz < RESONANCE_HZ[1])]
    return float(inside.sum() / spectrum.sum()), float((power > 0.01).sum() / RATE)


def _endless(name: str, samples: int, random: np.random.Generator) -> np.ndarray:
    """An ambience, repeated with cross-fades, from a random place; root mean square 1."""
    once = read(FOLDER / f"{name}.flac")
    fade = len(once) // 4
    ramp = np.sin(0.5 * np.pi * np.linspace(0, 1, fade))
    loop = once[fade:].copy()
    loop[-fade:] = loop[-fade:] * ramp[::-1] + once[:fade] * ramp
    begin = random.integers(len(loop))
    loop /= np.sqrt(np.mean(loop**2))
    return np.resize(loop, begin + samples)[begin:]
