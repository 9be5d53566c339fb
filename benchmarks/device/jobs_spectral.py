"""Jobs on the spectrum of one frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.fft
import scipy.signal

from benchmarks.device.job import Array, Goal, Job
from microddsp import dsp

RATE_HZ = 16000
FRAME = 512
BANDS = 40
COEFFICIENTS = 13
F_MIN_HZ = 20.0
FLOOR = 1e-6
_MEL = {"sample_rate_hz": RATE_HZ, "f_min_hz": F_MIN_HZ}


def spectral_jobs() -> list[Job]:
    """Transform, log-mel and MFCC of 512 samples."""
    signal = frames()
    spectrum = np.fft.rfft(signal.astype("float64"))
    dct = scipy.fft.dct(np.eye(BANDS), norm="ortho", axis=0)[:COEFFICIENTS]
    return [
        Job(
            key="rfft-512",
            title="real FFT, 512",
            kind="rfft",
            signal=signal,
            expected=np.stack([spectrum.real, spectrum.imag], -1),
            module=dsp.RFFT,
            per="frame",
            goal=Goal(18500, text_bytes=6 * 1024),
            limit=11500,
        ),
        Job(
            key="log-mel-512-40",
            title="log-mel, 512, 40 bands",
            kind="log-mel",
            signal=signal,
            expected=log_mel_of(signal),
            module=log_mel,
            parameters=numbers(),
            per="frame",
            goal=Goal(24000, text_bytes=9 * 1024),
            limit=14500,
        ),
        Job(
            key="mfcc-512-40-13",
            title="MFCC, 512, 40 bands, 13",
            kind="log-mel",
            signal=signal,
            expected=log_mel_of(signal) @ dct.T,
            module=lambda: dsp.MFCC(COEFFICIENTS, BANDS, FRAME, FRAME, log=_log(), **_MEL),
            parameters=numbers() | {"dct": dct},
            per="frame",
        ),
    ]


def frames() -> Array:
    """Four frames of noise."""
    return np.random.default_rng(5).standard_normal((4, 1, FRAME)).astype("float32")


def numbers() -> dict[str, Any]:
    """What the other libraries need for a log-mel."""
    return {"window": _window(), "bank": mel_bank(), "floor": FLOOR}


def log_mel() -> dsp.LogMel:
    """Frames without overlap: one block is one frame."""
    return dsp.LogMel(BANDS, FRAME, FRAME, log=_log(), **_MEL)


def log_mel_of(signal: Array) -> Array:
    """The same by numpy in float64."""
    power = np.abs(np.fft.rfft(signal * _window().astype("float64"))) ** 2
    logs: Array = np.log(power @ mel_bank().astype("float64").T + FLOOR)
    return logs


def _window() -> Array:
    window: Array = scipy.signal.get_window("hann", FRAME).astype("float32")
    return window


def mel_bank() -> Array:
    """(bands, bins) triangles, even in mel up to half the rate; O'Shaughnessy's formula."""
    edges_mel = np.linspace(_mel(F_MIN_HZ), _mel(RATE_HZ / 2), BANDS + 2)
    edges_hz = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    bins_hz = np.fft.rfftfreq(FRAME, 1 / RATE_HZ)
    low, middle, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising = (bins_hz - low) / (middle - low)
    falling = (high - bins_hz) / (high - middle)
    bank: Array = np.minimum(rising, falling).clip(0.0).astype("float32")
    bank[:, -1] = 0.0  # half the rate is the last band's upper edge, but for rounding
    return bank


def _log() -> dsp.Log:
    return dsp.Log(offset=FLOOR, amin=1e-30)


def _mel(hz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hz / 700.0))
