"""Recorded sounds at known times over recorded ambience, from Debian's `sonic-pi-samples` (CC0)."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from made import made, murmur
from scipy.signal import butter, lfilter, resample_poly, sosfilt

FOLDER = Path("/usr/share/sonic-pi/samples")
RATE = 8000
WINDOW_S = 6.0  # one count is known for each
LEVEL = 0.1  # root mean square of the loudest 50 ms of an average plop
LOUDEST = RATE // 20
RESONANCE = butter(4, (30.0, 250.0), "bandpass", fs=RATE, output="sos")
TILT = butter(1, 500.0, fs=RATE)  # a low-pass
BACKGROUND = ("ambi", "loop", "vinyl")
AMBIENCE = (
    "ambi_dark_woosh",
    "ambi_drone",
    "ambi_glass_hum",
    "ambi_haunted_hum",
    "ambi_lunar_land",
    "ambi_sauna",
    "loop_3d_printer",
    "vinyl_hiss",
    "vinyl_rewind",
)


@dataclass(frozen=True)
class Sounds:
    """Names of files."""

    plops: tuple[str, ...]
    distractors: tuple[str, ...]
    ambience: tuple[str, ...]


@dataclass(frozen=True)
class Recording:
    """Samples at 8 kHz and the sample numbers at which sounds begin; `files` says which sounds."""

    name: str
    samples: np.ndarray
    plops: np.ndarray
    distractors: np.ndarray
    files: dict[int, str]


@dataclass(frozen=True)
class Variety:
    """How much a sound may differ from its file, at random, to both sides.

    `speed`: share by which it is played slower or faster, all of it higher or lower with that;
    `tilt_db`: more or less of what is above 500 Hz; `level_db`: beyond what `record` says.
    `made`: share of sounds and ambiences that are none of the files, but made up. A sound that is
    by the rule of `split` no longer what its file is, is not used.
    """

    speed: float = 0.1
    tilt_db: float = 0.0
    level_db: float = 0.0
    made: float = 0.0


def split() -> tuple[Sounds, Sounds]:
    """Sounds for training and held-out ones, by a rule, not by ear.

    All is by the power of 50 ms. A plop is a sound whose loudest 50 ms begin within 50 ms, that
    stays within 20 dB of them for at most 0.5 s, and that keeps at least 0.8 of them behind a
    band-pass from 30 to 250 Hz: low and short, as if of large bubbles. A distractor keeps at most a
    fifth there, lasts at most 1.5 s, and is nowhere low: none of its 50 ms within 20 dB of the
    loudest has more than half of its power there. What lies between is not used.

    Files of one instrument stay together: those with the first two words of their names in common,
    numbers aside. Of the instruments by name, used or not, the third, sixth, ... are held out, and
    of the ambiences too.
    """
    names = sorted(path.stem for path in FOLDER.glob("*.flac"))
    struck = [name for name in names if name.split("_")[0] not in BACKGROUND]
    unheard = sorted({_instrument(name) for name in struck})[2::3]
    return (
        _by_kind(
            (name for name in struck if _instrument(name) not in unheard),
            (name for i, name in enumerate(AMBIENCE) if i % 3 != 2),
        ),
        _by_kind((name for name in struck if _instrument(name) in unheard), AMBIENCE[2::3]),
    )


def _instrument(name: str) -> str:
    return "_".join(re.sub(r"\d", "", name).split("_")[:2])


def _by_kind(names: Iterable[str], ambience: Iterable[str]) -> Sounds:
    kinds = {name: _kind(_short(name)) for name in names}
    plops, distractors = (
        tuple(name for name, kind in kinds.items() if kind == wanted)
        for wanted in ("plop", "distractor")
    )
    return Sounds(plops, distractors, tuple(ambience))


def record(
    sounds: Sounds, seconds: float, seed: int, variety: Variety | None = None
) -> list[Recording]:
    """One recording over each ambience: in every 6 s 0 to 5 plops and 0 to 5 distractors.

    Plops vary by 3 dB to both sides, distractors are 3 to 12 dB louder than an average plop, the
    ambience is 10 to 20 dB below it, by its own loudest 50 ms. Beginnings are at least 0.4 s apart
    and 0.2 s from the border of a window; tails overlap with whatever follows.
    """
    random = np.random.default_rng(seed)
    windows = round(seconds / WINDOW_S)
    return [
        _record(sounds, name, windows, random, variety or Variety()) for name in sounds.ambience
    ]


def level(samples: np.ndarray) -> np.ndarray:
    """A recording of unknown level, its loudest plops where loud ones are in training.

    Those are the loudest 50 ms, but for one in a thousand, of what is low; other sounds may be
    louder. A device that always hears the same room needs no such step.
    """
    spans = len(samples) // LOUDEST
    power, low = (
        (part[: spans * LOUDEST].reshape(-1, LOUDEST) ** 2).mean(axis=1)
        for part in (samples, sosfilt(RESONANCE, samples))
    )
    loud = np.sqrt(np.quantile(power * (low > 0.8 * power), 0.999)) if spans else 0.0
    return (samples * (_gain(3.0) / loud if loud > 0 else 1.0)).astype("float32")


def read(path: Path) -> np.ndarray:
    """One channel at 8 kHz."""
    samples, rate = soundfile.read(path, always_2d=True)
    return resample_poly(samples.mean(1), RATE, rate) if rate != RATE else samples.mean(1)


def _record(
    sounds: Sounds, name: str, windows: int, random: np.random.Generator, variety: Variety
) -> Recording:
    length = round(WINDOW_S * RATE)
    signal = _gain(random.uniform(-20, -10)) * _ambience(name, windows * length, random, variety)
    files: dict[int, str] = {}
    for window in range(windows):
        times = iter(_times(random, 10) + window * length)
        for names, low, high in ((sounds.plops, -3, 3), (sounds.distractors, 3, 12)):
            for _ in range(random.integers(0, 6)):
                begin = int(next(times))
                files[begin] = names[random.integers(len(names))]
                sound = _varied(files[begin], random, variety)
                part = signal[begin : begin + len(sound)]
                level = random.uniform(low, high) + variety.level_db * random.uniform(-1, 1)
                part += _gain(level) * sound[: len(part)]
    plops, distractors = (
        np.array(sorted(begin for begin, file in files.items() if file in names), dtype=int)
        for names in (sounds.plops, sounds.distractors)
    )
    return Recording(name, signal.astype("float32"), plops, distractors, files)


def _times(random: np.random.Generator, count: int) -> np.ndarray:
    """Samples of a window at which sounds may begin, in random order."""
    slot = (WINDOW_S - 0.4) / count
    times = 0.2 + slot * np.arange(count) + random.uniform(0, slot - 0.4, count)
    return random.permutation(np.round(times * RATE).astype(int))


def _gain(decibels: float) -> float:
    return float(LEVEL * 10 ** (decibels / 20))


def _varied(name: str, random: np.random.Generator, variety: Variety) -> np.ndarray:
    percent = round(100 * variety.speed)
    if variety == Variety():
        return _short(name, 100 + int(random.integers(-percent, percent + 1)))
    kind, is_made = _kind(_short(name)), random.uniform() < variety.made
    while True:
        if is_made:
            sound = _begun(made(random, RATE))
        else:
            sound = _short(name, 100 + int(random.integers(-percent, percent + 1)))
        low = lfilter(*TILT, sound)
        tilted = low + 10 ** (variety.tilt_db * random.uniform(-1, 1) / 20) * (sound - low)
        tilted /= np.sqrt(_power(tilted).max())
        if _kind(tilted) == kind:
            return tilted


@functools.cache
def _short(name: str, speed_percent: int = 100) -> np.ndarray:
    """A sound from its beginning, its loudest 50 ms at a root mean square of 1."""
    sound = read(FOLDER / f"{name}.flac")
    if speed_percent != 100:
        sound = resample_poly(sound, 100, speed_percent)
    return _begun(sound)


def _begun(sound: np.ndarray) -> np.ndarray:
    begin = np.nonzero(np.abs(sound) > 0.05 * np.abs(sound).max())[0][0]
    return sound[max(0, begin - 8) :] / np.sqrt(_power(sound).max())


def _power(sound: np.ndarray) -> np.ndarray:
    """Of the 50 ms before each sample."""
    total = np.cumsum(np.pad(sound**2, (LOUDEST, LOUDEST - 1)))
    return np.maximum(total[LOUDEST:] - total[:-LOUDEST], 0) / LOUDEST


def _kind(sound: np.ndarray) -> str:
    """What `split` says of it."""
    power, low = _power(sound), _power(sosfilt(RESONANCE, np.pad(sound, (0, LOUDEST))))
    audible = power > 0.01 * power.max()
    share = low.max() / power.max()
    attack_s, length_s = (power.argmax() - LOUDEST) / RATE, audible.sum() / RATE
    if share >= 0.8 and attack_s <= 0.05 and length_s <= 0.5:
        return "plop"
    lowest = (low[: len(power)][audible] / power[audible]).max()
    return "distractor" if share <= 0.2 and lowest <= 0.5 and length_s <= 1.5 else "neither"


def _ambience(name: str, samples: int, random: np.random.Generator, variety: Variety) -> np.ndarray:
    """An ambience, its loudest 50 ms at a root mean square of 1."""
    if random.uniform() < variety.made:
        sound = murmur(random, RATE, samples)
    else:
        sound = _endless(name, samples, random)
    return sound / np.sqrt(_power(sound).max())


def _endless(name: str, samples: int, random: np.random.Generator) -> np.ndarray:
    """A file, repeated with cross-fades, from a random place."""
    once = read(FOLDER / f"{name}.flac")
    fade = len(once) // 4
    ramp = np.sin(0.5 * np.pi * np.linspace(0, 1, fade))
    loop = once[fade:].copy()
    loop[-fade:] = loop[-fade:] * ramp[::-1] + once[:fade] * ramp
    begin = random.integers(len(loop))
    return np.resize(loop, begin + samples)[begin:]
