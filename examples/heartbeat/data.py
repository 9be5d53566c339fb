"""Pulse recordings from the PyPI package heartpy, with its accepted peaks as reference."""

from __future__ import annotations

import csv
import datetime
import importlib.resources
import warnings
from dataclasses import dataclass

import numpy as np

BLOCK = 64  # samples; also the resolution of what is known
# About one beat: what makes heartpy reject a peak also disturbs its neighbours.
MARGIN_S = 0.6


@dataclass(frozen=True)
class Recording:
    """A PPG: raw samples, their rate, accepted peaks, and where the reference is sure."""

    name: str
    samples: np.ndarray
    sample_rate_hz: float
    peaks: np.ndarray
    known: np.ndarray


def load(name: str) -> Recording:
    """`data3.csv` (682 s at about 100 Hz) or `data2.csv` (128 s at 117 Hz, noisy)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # heartpy's own imports warn
        import heartpy

    path = importlib.resources.files("heartpy") / "data" / name
    rows = list(csv.reader(path.read_text().splitlines()))[1:]
    samples = np.array([float(row[1]) for row in rows])
    seconds = _seconds([row[0] for row in rows])
    rate = (len(samples) - 1) / (seconds[-1] - seconds[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        working, _ = heartpy.process(samples, rate)
    rejected = np.array(sorted(working["removed_beats"]), dtype=int)
    accepted = np.setdiff1d(np.array(working["peaklist"], dtype=int), rejected)
    whole = len(samples) // BLOCK * BLOCK
    known = _known(whole, accepted, rejected, rate)
    return Recording(name, samples[:whole], rate, accepted[accepted < whole], known)


def _seconds(stamps: list[str]) -> np.ndarray:
    if ":" in stamps[0]:
        return np.array([datetime.datetime.fromisoformat(s).timestamp() for s in stamps])
    return np.array([float(s) for s in stamps]) / 1000.0


def _known(samples: int, accepted: np.ndarray, rejected: np.ndarray, rate: float) -> np.ndarray:
    """False from the accepted peak before a rejected one to the accepted peak after it, with a
    margin; whole blocks, since a device tells its count once a block."""
    known = np.ones(samples, dtype=bool)
    margin = round(MARGIN_S * rate)
    for peak in rejected:
        before, after = accepted[accepted < peak], accepted[accepted > peak]
        start = before[-1] if len(before) else 0
        end = after[0] if len(after) else samples
        known[max(0, start - margin) : end + margin] = False
    return np.repeat(known.reshape(-1, BLOCK).all(axis=1), BLOCK)
