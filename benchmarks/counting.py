"""Counting from counts alone: plops of one pitch among louder clicks of another.

Part one: one task, eight starts, most of them on the wrong pitch. Part two: twenty tasks with
random pitches. Each recording has 4 s at 4 kHz, 0 to 9 plops, 6 clicks and noise; its label is the
number of plops. Scored on 200 recordings that were not trained on.

    python -m benchmarks.counting [--json] [--tasks 20]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch

from microddsp import dsp
from microddsp.training import Windows, fit, scan, window_counts

RATE_HZ = 4000.0
SAMPLES = 16000
TRAINING, HELD_OUT = 128, 200
STARTS_HZ = (500.0, 800.0, 1200.0, 1600.0)
SEEDS = (1, 2)


@dataclass(frozen=True)
class Outcome:
    """error: mean count error on held-out recordings; exact: share of them counted exactly."""

    plop_hz: float
    click_hz: float
    start_hz: float
    seed: int
    error: float
    exact: float
    learned_low_hz: float
    learned_high_hz: float
    seconds: float


def recordings(count: int, seed: int, plop_hz: float = 450.0, click_hz: float = 1200.0) -> Windows:
    """Plops within 7 % of their pitch, at least 70 ms apart; clicks are louder and anywhere."""
    rng = np.random.default_rng(seed)
    x = 0.05 * rng.standard_normal((count, SAMPLES))
    counts = rng.integers(0, 10, count)
    long, short = np.arange(320), np.arange(160)
    for row, number in zip(x, counts, strict=True):
        places = np.sort(rng.choice(np.arange(1, 38), number, replace=False)) * 400
        for place in places + rng.integers(-60, 60, number):
            pitch = plop_hz * rng.uniform(0.933, 1.067)
            plop = np.exp(-long / 80) * np.sin(2 * np.pi * pitch * long / RATE_HZ)
            row[place : place + 320] += rng.uniform(0.3, 0.8) * plop
        for place in rng.integers(0, SAMPLES - 200, 6):
            click = np.exp(-short / 40) * np.sin(2 * np.pi * click_hz * short / RATE_HZ)
            row[place : place + 160] += rng.uniform(0.5, 1.2) * click
    known = torch.ones(count, SAMPLES, dtype=torch.bool)
    signals = torch.tensor(x[:, None], dtype=torch.float32)
    return Windows(signals, known, torch.tensor(counts, dtype=torch.float32))


def counter(centre_hz: float, threshold: float = 0.1) -> torch.nn.Module:
    """A band a third of its centre wide, its envelope, and a counter."""
    return torch.nn.Sequential(
        dsp.Bandpass(0.85 * centre_hz, 1.18 * centre_hz, 2, sample_rate_hz=RATE_HZ),
        dsp.Envelope(0.002, 0.02, sample_rate_hz=RATE_HZ),
        dsp.EventCounter(threshold, 0.5, refractory_s=0.03, sample_rate_hz=RATE_HZ),
    )


def solve(
    windows: Windows, held_out: Windows, start_hz: float, seed: int, plop_hz: float, click_hz: float
) -> Outcome:
    """From one start: bands around it all over the spectrum are scanned, the best are trained."""
    begin = time.perf_counter()
    around = [start_hz * 2 ** (k / 4) for k in range(-20, 20)]
    bands = [counter(hz) for hz in around if 80.0 < hz < 1600.0]
    starts = [found.pipeline for found in scan(bands, windows, keep=2)]
    result = fit(
        starts, windows, density_steps=0, exact_steps=60, learning_rate=0.03, batch=32, seed=seed
    )
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        misses = (window_counts(result.pipeline, held_out) - held_out.counts).abs()
    band = result.pipeline[0]
    return Outcome(
        plop_hz,
        click_hz,
        start_hz,
        seed,
        float(misses.mean()),
        float((misses == 0).double().mean()),
        band.low_hz.item(),
        band.high_hz.item(),
        seconds,
    )


def pitches(number: int) -> tuple[float, float]:
    """Random pitches of plop and click, 150 to 1500 Hz, a ratio of 1.6 or more apart."""
    rng = np.random.default_rng(1000 + number)
    while True:
        plop_hz, click_hz = np.exp(rng.uniform(np.log(150.0), np.log(1500.0), 2))
        if max(plop_hz / click_hz, click_hz / plop_hz) >= 1.6:
            return float(plop_hz), float(click_hz)


def eight_starts() -> list[Outcome]:
    windows, held_out = recordings(TRAINING, 1), recordings(HELD_OUT, 2)
    return [
        solve(windows, held_out, start_hz, seed, 450.0, 1200.0)
        for seed in SEEDS
        for start_hz in STARTS_HZ
    ]


def random_task(number: int) -> Outcome:
    plop_hz, click_hz = pitches(number)
    windows = recordings(TRAINING, 10 + 2 * number, plop_hz, click_hz)
    held_out = recordings(HELD_OUT, 11 + 2 * number, plop_hz, click_hz)
    return solve(windows, held_out, 500.0, number, plop_hz, click_hz)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tasks", type=int, default=20, help="random tasks; 0: none")
    parser.add_argument("--no-starts", action="store_true", help="leave part one out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    outcomes = [] if options.no_starts else eight_starts()
    tasks = [random_task(number) for number in range(options.tasks)]
    if options.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes + tasks], indent=2))
        return
    print("plop Hz  click Hz  start Hz  seed  error  exact  learned band   seconds")
    for o in outcomes + tasks:
        print(
            f"{o.plop_hz:7.0f} {o.click_hz:9.0f} {o.start_hz:9.0f} {o.seed:5d} {o.error:6.3f} "
            f"{o.exact:6.3f}  {o.learned_low_hz:5.0f} - {o.learned_high_hz:5.0f} {o.seconds:8.1f}"
        )
    if tasks:
        print(f"{sum(o.error == 0 for o in tasks)} of {len(tasks)} random tasks without an error")


if __name__ == "__main__":
    main()
