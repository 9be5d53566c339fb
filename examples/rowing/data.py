"""Simulated rowing, and real walking from the PyPI package gaitpy.

The boat is checked at the catch, pushed twice in the drive, slows at the finish, and gains speed in
the recovery, in which the rowers pull it towards them. The double peak in the drive and the
division of the stroke into such phases are described by V. Kleshnev, "Boat acceleration, temporal
structure of the stroke cycle, and effectiveness in rowing", Proc. IMechE Part P 224(1), 2010. The
numbers are not taken from there: places, heights and widths are assumptions, and so is the rest.
"""

from __future__ import annotations

import csv
import datetime
import importlib.resources
from dataclasses import dataclass

import numpy as np

RATE = 50  # samples per second of both sources
GRAVITY = 9.81
COUNTS_PER_G = 4096  # a 16-bit sensor of +-8 g
SCALE = GRAVITY / COUNTS_PER_G
# phase of the stroke, height in m/s^2 at 30 strokes a minute, width in phase
BUMPS = (
    (0.00, -7.0, 0.060),  # catch
    (0.13, 2.8, 0.040),  # drive, first peak
    (0.27, 3.4, 0.050),  # drive, second peak
    (0.42, -1.5, 0.040),  # finish
    (0.65, 1.5, 0.130),  # recovery; as high as it takes to keep the speed
)


@dataclass(frozen=True)
class Recording:
    """Raw int16 samples (time, 3), the samples at which strokes begin, and the boat alone."""

    samples: np.ndarray
    strokes: np.ndarray
    boat: np.ndarray


@dataclass(frozen=True)
class Bout:
    """Walking: raw int16 samples (time, 3) and gaitpy's own number of steps in it."""

    samples: np.ndarray
    steps: int


def row(seconds: float, seed: int) -> Recording:
    """One outing of one crew: pieces of 20 to 60 s at 18 to 38 strokes a minute, with pauses.

    Heights grow with the square of the rate, as forces of inertia do; crews differ by a fifth in
    heights and 2 % in places, strokes of a crew by a tenth in height and 4 % in time. The sensor
    lies in the boat, turned by up to 10 degrees, x towards the bow; waves, sway, knocks of up to
    8 m/s^2, noise and a drifting offset come on top, in pauses too.
    """
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    boat, strokes = _boat(time, random)
    body = np.stack([boat, _waves(time, random, 0.25), _waves(time, random, 0.35)])
    # sliding bodies: the boat sways with its own speed and pitches a fifth of a second later
    body[1] += 0.15 * np.cumsum(boat) / RATE
    body[2] += 0.25 * np.roll(boat, RATE // 5)
    body += np.stack([_waves(time, random, 0.3) for _ in range(3)])
    body[2] += GRAVITY
    turned = _rotation(np.radians(random.uniform(-10, 10, 3))) @ body
    for begin in random.uniform(0, seconds - 0.2, round(seconds / 6)):
        at = (time >= begin) & (time < begin + 0.06)
        turned[:, at] += random.uniform(-8, 8, (3, 1))
    turned += random.normal(0, 0.4, turned.shape)
    turned += np.cumsum(random.normal(0, 0.01, turned.shape), axis=1)
    raw = np.clip(np.round(turned.T / SCALE), -32768, 32767).astype("int16")
    return Recording(raw, np.round(strokes * RATE).astype(int), boat)


def _boat(time: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    places, peaks, widths = np.array(BUMPS).T
    places = places + random.uniform(-0.02, 0.02, len(BUMPS))
    peaks = peaks * random.uniform(0.8, 1.2, len(BUMPS))
    peaks[-1] = -(peaks[:-1] @ widths[:-1]) / widths[-1]
    boat, strokes = np.zeros_like(time), []
    now = random.uniform(1, 6)
    while now < time[-1] - 4:
        stop, rate = now + random.uniform(20, 60), random.uniform(18, 38)
        while now < min(stop, time[-1] - 4):
            length = 60 / rate * random.normal(1, 0.04)
            phase = (time - now) / length
            height = (rate / 30) ** 2 * random.normal(1, 0.1)
            for place, peak, width in zip(places, peaks, widths, strict=True):
                boat += height * peak * np.exp(-0.5 * ((phase - place) / width) ** 2)
            strokes.append(now)
            now += length
        now += random.uniform(4, 15)
    return boat, np.array(strokes)


def _waves(time: np.ndarray, random: np.random.Generator, height: float) -> np.ndarray:
    """Waves between 0.15 and 1 Hz with random phases."""
    hz, phase = random.uniform(0.15, 1.0, 8), random.uniform(0, 2 * np.pi, 8)
    return height / 2 * np.sin(2 * np.pi * np.outer(time, hz) + phase).sum(1)


def _rotation(angles: np.ndarray) -> np.ndarray:
    c, s = np.cos(angles), np.sin(angles)
    x = np.array([[1, 0, 0], [0, c[0], -s[0]], [0, s[0], c[0]]])
    y = np.array([[c[1], 0, s[1]], [0, 1, 0], [-s[1], 0, c[1]]])
    z = np.array([[c[2], -s[2], 0], [s[2], c[2], 0], [0, 0, 1]])
    return np.asarray(z @ y @ x)


def walk() -> list[Bout]:
    """The three walks that gaitpy finds in its recording from a waist, in order of time.

    A hundred lines about the device come first; x, y, z are in g, y is vertical. The
    reference is the number of steps that gaitpy (wavelets) gives for each.

    Raises:
        ModuleNotFoundError: gaitpy is not installed.
    """
    folder = importlib.resources.files("gaitpy") / "demo"
    measured = list(csv.reader((folder / "demo_data.csv").read_text().splitlines()))[100:]
    begin = datetime.datetime.strptime(measured[0][0], "%Y-%m-%d %H:%M:%S:%f")
    raw = np.array([[float(v) for v in r[1:4]] for r in measured])
    samples = np.clip(np.round(raw * COUNTS_PER_G), -32768, 32767).astype("int16")
    found: dict[str, Bout] = {}
    for line in csv.DictReader((folder / "demo_gait_features.csv").read_text().splitlines()):
        since = datetime.datetime.fromisoformat(line["bout_start_time"]) - begin
        start = round(since.total_seconds() * RATE)
        length = round(float(line["bout_length_sec"]) * RATE)
        found[line["bout_number"]] = Bout(samples[start : start + length], int(line["steps"]))
    return list(found.values())
