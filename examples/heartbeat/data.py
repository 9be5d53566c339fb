"""Pulse recordings from the PyPI package heartpy, with its accepted peaks as reference."""

from __future__ import annotations

import csv
import datetime
import importlib.resources
import warnings
from dataclasses import dataclass, replace

import numpy as np

BLOCK = 64  # samples; also the resolution of what is known
# About one beat: what makes heartpy reject a peak also disturbs its neighbours.
MARGIN_S = 0.6
# A sensor whose samples stand still this long is unplugged; before this long before the first
# peak, accepted or not, nobody wears it.
STILL_S, BEFORE_S = 2.0, 2.0


@dataclass(frozen=True)
class Recording:
    """A PPG: raw samples, their rate, accepted peaks, where the reference is sure, and where the
    sensor is off, which is sure too: there are no beats."""

    name: str
    samples: np.ndarray
    sample_rate_hz: float
    peaks: np.ndarray
    known: np.ndarray
    off: np.ndarray

    def between(self, begin: int, end: int) -> Recording:
        """A part of it."""
        inside = (self.peaks >= begin) & (self.peaks < end)
        return replace(
            self,
            samples=self.samples[begin:end],
            peaks=self.peaks[inside] - begin,
            known=self.known[begin:end],
            off=self.off[begin:end],
        )


def load(name: str, sample_rate_hz: float | None = None) -> Recording:
    """`data3.csv` (682 s at 100.4 Hz) or `data2.csv` (128 s at 117 Hz, another sensor), at its own
    rate or interpolated to another."""
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
    if sample_rate_hz is not None:
        at = np.arange(0, len(samples) - 1, rate / sample_rate_hz)
        samples = np.interp(at, np.arange(len(samples)), samples)
        accepted, rejected = (
            np.round(p * sample_rate_hz / rate).astype(int) for p in (accepted, rejected)
        )
        rate = sample_rate_hz
    whole = len(samples) // BLOCK * BLOCK
    samples = samples[:whole]
    off = _off(samples, min(accepted[0], rejected[0]) if len(rejected) else accepted[0], rate)
    known = _known(whole, accepted, rejected, rate) | off
    return Recording(name, samples, rate, accepted[accepted < whole], known, off)


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
    return _whole_blocks(known)


def _off(samples: np.ndarray, first_peak: int, rate: float) -> np.ndarray:
    """Unplugged, with a margin, or not yet worn; whole blocks."""
    off = np.zeros(len(samples), dtype=bool)
    borders = np.flatnonzero(np.diff(samples, prepend=np.nan, append=np.nan) != 0)
    margin = round(MARGIN_S * rate)
    for begin, end in zip(borders[:-1], borders[1:], strict=True):
        if end - begin >= STILL_S * rate:
            off[begin + margin : end - margin] = True
    off[: max(0, first_peak - round(BEFORE_S * rate))] = True
    return _whole_blocks(off)


def _whole_blocks(mask: np.ndarray) -> np.ndarray:
    return np.repeat(mask.reshape(-1, BLOCK).all(axis=1), BLOCK)
