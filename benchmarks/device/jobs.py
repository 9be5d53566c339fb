"""The jobs: signals, parameters, what numpy and scipy make of them, goals and limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.signal
import torch

from benchmarks.device.counted import counts, follow, share
from benchmarks.device.job import Array, Goal, Job
from benchmarks.device.jobs_frames import conv_net, log_mel_net
from benchmarks.device.jobs_pipelines import pipelines
from benchmarks.device.jobs_spectral import spectral_jobs
from microddsp import dsp

RATE_HZ = 8000


def all_jobs() -> list[Job]:
    """Every job, in the order of the table."""
    return [
        *(_sos(2, "any", n, goal, 12.5) for n, goal in ((256, 14), (1, 30))),
        *(_sos(4, "any", n, goal, 22.5) for n, goal in ((256, 26.5), (32, 28), (1, 60))),
        *(_sos(4, "band-pass", n, goal, 20) for n, goal in ((256, 22), (32, 23.5), (1, 45))),
        _chain(64, Goal(35)),
        _fir("general", 256, Goal(46)),
        _fir("general", 32, Goal()),
        _fir("linear-phase", 256, Goal(cycles=90)),
        _fir("linear-phase", 32, Goal()),
        _counter("dense", Goal(7)),
        _counter("sparse", Goal(4.5)),
        conv_net(),
        *spectral_jobs(),
        log_mel_net(),
        *pipelines(),
    ]


def _noise(block: int, samples: int = 2048) -> Array:
    """Blocks of white noise, the same for every library."""
    blocks = max(samples // block if block > 1 else 512, 2)
    return np.random.default_rng(0).standard_normal((blocks, 1, block)).astype("float32")


def _sections(count: int, numerators: str) -> Array:
    """Second-order sections in float32, gain first, as the device has them."""
    if numerators == "band-pass":
        sos = scipy.signal.butter(count, [400.0, 900.0], "bandpass", fs=RATE_HZ, output="sos")
        gain = sos[0, 0]
        sos[0, :3] /= gain
        # scipy pairs zeros as it likes: 1 2 1 and 1 -2 1; each section gets one of each
        sos[:, :3] = [1.0, 0.0, -1.0]
        sos[0, :3] *= gain
    else:
        sos = scipy.signal.ellip(2 * count, 0.5, 50.0, 900.0, fs=RATE_HZ, output="sos")
        sos[:, :3] *= np.linspace(0.8, 1.2, count)[:, None]
    return np.asarray(sos)


def _filtered(sos: Array, signal: Array) -> Array:
    whole = scipy.signal.sosfilt(sos, signal.reshape(-1).astype("float64"))
    return np.asarray(whole).reshape(signal.shape)


def _sos(sections: int, numerators: str, block: int, goal: float, limit: float) -> Job:
    sos = _sections(sections, numerators)
    signal = _noise(block)

    def module() -> torch.nn.Module:
        if numerators == "band-pass":
            return torch.nn.Sequential(
                dsp.Bandpass(400.0, 900.0, sections, sample_rate_hz=RATE_HZ, form="direct")
            )
        return torch.nn.Sequential(dsp.SOS(sos, sample_rate_hz=RATE_HZ, form="direct"))

    what = "any" if numerators == "any" else "Butterworth band-pass"
    return Job(
        key=f"sos{sections}-{numerators}-{block}",
        title=f"{sections} biquads, {what}, block {block}",
        kind="sos",
        signal=signal,
        expected=_filtered(sos, signal),
        module=module,
        parameters={"sos": sos},
        goal=Goal(goal),
        limit=limit,
    )


def _bursts(samples: int) -> Array:
    """A tone inside the pass band, swelling several times: counts that no rounding changes."""
    t = np.arange(samples) / RATE_HZ
    swell = np.sin(2 * np.pi * 12.0 * t).clip(0.0) ** 2
    noise = 0.01 * np.random.default_rng(1).standard_normal(samples)
    return (swell * np.sin(2 * np.pi * 600.0 * t) + noise).astype("float32")


def _chain(block: int, goal: Goal) -> Job:
    sos = _sections(4, "band-pass")
    signal = _bursts(4096).reshape(-1, 1, block)
    attack, release = (share(s, RATE_HZ) for s in (0.002, 0.02))
    parameters = {"sos": sos, "attack": attack, "release": release, "high": 0.3, "low": 0.1}
    refractory = 80
    levels = follow(np.abs(_filtered(sos, signal).reshape(-1)), attack, release)
    expected = counts(levels, 0.3, 0.1, refractory, block)
    assert expected[-1] >= 5, "the chain's signal holds too few events to check a count"

    def module() -> torch.nn.Module:
        return torch.nn.Sequential(
            dsp.Bandpass(400.0, 900.0, 4, sample_rate_hz=RATE_HZ, form="direct"),
            dsp.Envelope(0.002, 0.02, sample_rate_hz=RATE_HZ),
            dsp.EventCounter(0.3, release_threshold=0.1, refractory_s=0.01, sample_rate_hz=RATE_HZ),
        )

    return Job(
        key=f"chain-{block}",
        title=f"4 biquads, abs, envelope, counter, block {block}",
        kind="chain",
        signal=signal,
        expected=expected,
        module=module,
        parameters={**parameters, "refractory": refractory},
        goal=goal,
    )


def _fir(phase: str, block: int, goal: Goal) -> Job:
    taps = scipy.signal.firwin(32, 900.0, fs=RATE_HZ).astype("float32")
    if phase == "general":
        taps = np.random.default_rng(2).standard_normal(32).astype("float32") * taps
    signal = _noise(block)
    whole = scipy.signal.lfilter(taps.astype("float64"), [1.0], signal.reshape(-1))
    return Job(
        key=f"fir32-{phase}-{block}",
        title=f"FIR, 32 taps, {phase}, block {block}",
        kind="fir",
        signal=signal,
        expected=whole.reshape(signal.shape),
        module=lambda: torch.nn.Sequential(dsp.FIR(taps, sample_rate_hz=RATE_HZ)),
        parameters={"taps": taps},
        goal=goal,
        limit=43.5,
    )


def _counter(kind: str, goal: Goal) -> Job:
    rng = np.random.default_rng(3)
    if kind == "dense":
        signal = rng.standard_normal((32, 1, 64)).astype("float32")
    else:  # nearly always armed and below the threshold
        signal = (0.1 * rng.random((32, 1, 64))).astype("float32")
        signal[4::8, 0, 10:14] = 1.0
    refractory = 80
    return Job(
        key=f"counter-{kind}",
        title=f"event counter, {kind} input, block 64",
        kind="counter",
        signal=signal,
        expected=counts(signal.reshape(-1), 0.5, 0.25, refractory, 64),
        module=_module(
            dsp.EventCounter, 0.5, 0.5, refractory_s=refractory / RATE_HZ, sample_rate_hz=RATE_HZ
        ),
        parameters={"high": 0.5, "low": 0.25, "refractory": refractory},
        goal=goal,
        limit=2.75,
    )


def _module(block: Callable[..., torch.nn.Module], *args: Any, **named: Any) -> Any:
    return lambda: torch.nn.Sequential(block(*args, **named))
