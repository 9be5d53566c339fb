"""A scan finds what is near: band, threshold and release threshold, from counts alone."""

from __future__ import annotations

import pytest
import torch

from microddsp import dsp
from microddsp.errors import ParameterError, SignalError
from microddsp.training import Windows, scan, window_counts

RATE = 1000.0


def pulses(height: float, windows: int = 6, floor: float = 0.0) -> Windows:
    """0 to 5 pulses of 20 samples above a floor, with small ones in between."""
    x = torch.full((windows, 1, 600), floor)
    for row in range(windows):
        x[row, 0, 50:70] += 0.2 * height
        for k in range(row):
            x[row, 0, 100 * k + 80 : 100 * k + 100] += height
    known = torch.ones(windows, 600, dtype=torch.bool)
    return Windows(x, known, torch.arange(float(windows)))


def counter(**more) -> dsp.EventCounter:
    arguments = {"threshold": 7.0, "hysteresis": 0.5} | more
    return dsp.EventCounter(**arguments, sample_rate_hz=RATE)


@pytest.mark.parametrize("floor", [0.01, 0.0, -3.0])
def test_a_threshold_is_put_in_the_middle_of_those_that_fit(floor: float) -> None:
    windows = pulses(1.0, floor=floor)
    start = counter(threshold=9.0, release_threshold=8.0)
    (found,) = scan([start], windows, keep=1)
    assert found.error == 0 and torch.equal(window_counts(found.pipeline, windows), windows.counts)
    # from 0.2 to 1 above the floor every threshold fits
    above = found.pipeline.threshold.item() - floor
    assert 0.3 < above < 0.85
    assert start.threshold.item() == 9.0


def test_the_band_of_the_events_is_found_among_others() -> None:
    t = torch.arange(2000) / RATE
    plop, click = (torch.sin(2 * torch.pi * hz * t) for hz in (60.0, 250.0))
    x, counts = torch.zeros(6, 1, 2000), torch.tensor([0.0, 1.0, 2.0, 3.0, 1.0, 0.0])
    for row, count in enumerate(counts.int().tolist()):
        for k in range(count):
            x[row, 0, 600 * k + 100 : 600 * k + 200] += 0.5 * plop[:100]
        for k in range(3):
            x[row, 0, 500 * k + 350 : 500 * k + 390] += click[:40]
    windows = Windows(x, torch.ones(6, 2000, dtype=torch.bool), counts)
    bands = [
        torch.nn.Sequential(
            dsp.Bandpass(0.8 * hz, 1.25 * hz, 1, sample_rate_hz=RATE),
            dsp.Envelope(0.01, 0.05, sample_rate_hz=RATE),
            counter(),
        )
        for hz in (30.0, 60.0, 120.0, 250.0)
    ]
    found = scan(bands, windows, keep=4)
    assert len(found) == 4 and [s.score for s in found] == sorted(s.score for s in found)
    assert abs(found[0].pipeline[0].low_hz.item() - 48.0) < 0.1
    assert torch.equal(window_counts(found[0].pipeline, windows), counts)


def test_release_thresholds_are_tried() -> None:
    """Pulses that only fall to a third between two events count twice with a high release."""
    x = torch.zeros(4, 1, 300)
    for row in range(4):
        for k in range(row):
            x[row, 0, 60 * k + 20 : 60 * k + 50] = 1.0
            x[row, 0, 60 * k + 30 : 60 * k + 35] = 0.35
        x[row, 0, 250:260] = 0.5
    windows = Windows(x, torch.ones(4, 300, dtype=torch.bool), torch.arange(4.0))
    start = counter(hysteresis=0.95)
    assert scan([start], windows)[0].error > 0
    found = scan([start], windows, hystereses=(0.1, 0.3, 0.5))[0]
    assert torch.equal(window_counts(found.pipeline, windows), windows.counts)
    assert found.pipeline.release_threshold.item() < 0.35


def test_what_is_not_known_is_not_scored() -> None:
    windows = pulses(1.0)
    windows.signals[..., 550:560] = 5.0
    windows.known[:, 500:] = False
    counts = windows.counts.clone()
    counts[5] = 5.0
    found = scan([counter()], Windows(windows.signals, windows.known, counts))[0]
    assert torch.equal(window_counts(found.pipeline, windows), counts)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scan([], pulses(1.0)), "candidate"),
        (lambda: scan([counter()], pulses(1.0), levels=0), "levels is 0"),
        (lambda: scan([counter()], pulses(1.0), hystereses=(1.0,)), "hystereses"),
        (lambda: scan([dsp.Gain()], pulses(1.0)), "one EventCounter"),
        (
            lambda: scan(
                [torch.nn.Sequential(dsp.OnePole(50.0, sample_rate_hz=500.0), counter())],
                pulses(1.0),
            ),
            "at odds: 1 has 1000 Hz, 0 has 500 Hz",
        ),
        (lambda: scan([counter()], pulses(float("nan"))), "finite"),
    ],
)
def test_a_scan_that_makes_no_sense_is_refused(make, message) -> None:
    with pytest.raises((ParameterError, SignalError), match=message):
        make()
