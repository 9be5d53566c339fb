"""Thresholds in the middle of those that fit: from counts alone, whatever the units."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from microddsp import dsp
from microddsp.errors import ParameterError
from microddsp.training import Windows, fit, scan, window_counts
from microddsp.training.margins import centre, endless_weights, hear, moved_at_random, weights

RATE = 1000.0


def pulses(small: float, large: float, floor: float = 0.0) -> Windows:
    """0 to 5 large pulses among three small ones, above a floor."""
    x = torch.full((6, 1, 900), floor)
    for row in range(6):
        for k in range(3):
            x[row, 0, 700 + 50 * k : 720 + 50 * k] += small
        for k in range(row):
            x[row, 0, 100 * k + 80 : 100 * k + 100] += large
    return Windows(x, torch.ones(6, 900, dtype=torch.bool), torch.arange(6.0))


def counter(threshold: float, release_threshold: float) -> dsp.EventCounter:
    return dsp.EventCounter(threshold, release_threshold=release_threshold, sample_rate_hz=RATE)


@pytest.mark.parametrize("start", [0.42, 0.95])
def test_a_threshold_that_only_just_fits_is_put_in_the_middle(start: float) -> None:
    windows, pipeline = pulses(0.4, 1.0), counter(start, 0.5 * start)
    assert torch.equal(window_counts(pipeline, windows), windows.counts)
    score = centre(pipeline, [windows], 0.15)
    assert torch.equal(window_counts(pipeline, windows), windows.counts)
    # every one from 0.4 to 1 fits; the middle by ratio is 0.63
    assert 0.55 < pipeline.threshold.item() < 0.75
    assert abs(pipeline.release_threshold.item() / pipeline.threshold.item() - 0.5) < 1e-5
    assert 0 < score < centre(counter(start, 0.5 * start), [windows], 1e-9) + 0.5


def test_thresholds_at_and_below_zero_are_moved_by_their_distance() -> None:
    windows, pipeline = pulses(0.4, 1.0, floor=-0.9), counter(-0.45, -0.6)
    centre(pipeline, [windows], 0.4)
    assert -0.4 < pipeline.threshold.item() < 0.0
    distance = pipeline.threshold.item() - pipeline.release_threshold.item()
    assert abs(distance - 0.15) < 1e-5


def test_each_channel_keeps_its_place() -> None:
    x = pulses(0.4, 1.0)
    both = Windows(torch.cat([x.signals, 10 * x.signals], 1), x.known, 2 * x.counts)
    pipeline = dsp.EventCounter([0.43, 4.3], sample_rate_hz=RATE)
    centre(pipeline, [both], 0.15)
    first, second = pipeline.threshold.tolist()
    assert abs(second / first - 10) < 1e-4 and 0.55 < first < 0.75


def test_without_a_margin_thresholds_stay_and_the_error_is_theirs() -> None:
    windows, pipeline = pulses(0.4, 1.0), counter(0.3, 0.2)
    before = copy.deepcopy(pipeline.state_dict())
    expected = (window_counts(pipeline, windows) - windows.counts).abs().mean()
    assert centre(pipeline, [windows], 0.0) == expected.item() == 3.0
    assert all(torch.equal(v, before[n]) for n, v in pipeline.state_dict().items())


def test_what_a_counter_would_count_is_what_it_counts() -> None:
    """Lowered rates and unknown spans too."""
    last = dsp.EventCounter(0.3, 0.5, sample_rate_hz=RATE / 4)
    pipeline = torch.nn.Sequential(Thinned(), last)
    windows = pulses(0.4, 1.0)
    windows.known[:, 200:420] = False
    with torch.no_grad():
        expected = (window_counts(pipeline, windows) - windows.counts).abs().mean()
    heard = hear(pipeline, windows)
    assert heard.error(heard.counter.design()["thresholds"]) == pytest.approx(expected.item())
    assert expected > 0


def test_steps_hear_thresholds_as_often_as_they_weigh() -> None:
    pipeline, generator = counter(1.0, 0.5), torch.Generator().manual_seed(0)
    x = torch.ones(20_000, 1, 1)
    caught: list[torch.Tensor] = []
    with moved_at_random(pipeline, len(x), 0.2, generator):
        pipeline.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
        pipeline(x)
    shifts = -caught[0].log().flatten()
    assert abs(shifts.median().item()) < 0.01
    # of a Laplace law of scale 0.2 the share beyond 0.2 is 1/e
    assert abs((shifts.abs() > 0.2).double().mean().item() - math.exp(-1)) < 0.02
    assert shifts.abs().max() <= 0.6 + 1e-4
    assert len(pipeline._forward_pre_hooks) == 1


def test_weights_go_on_at_the_ends_of_levels() -> None:
    places = torch.arange(4).double()
    long = weights(torch.arange(-60, 64).double(), 1.5)[60:64]
    folded = torch.stack([long[:, :61].sum(-1), long[:, 61], long[:, 62], long[:, 63:].sum(-1)], -1)
    torch.testing.assert_close(endless_weights(places, 1.5), folded)
    torch.testing.assert_close(weights(places, 1.5).sum(-1), torch.ones(4).double())


def test_of_pipelines_without_an_error_the_one_with_room_wins() -> None:
    """Both count everything right; in the first the small pulses are higher."""
    windows = pulses(0.5, 1.0)
    narrow = torch.nn.Sequential(Power(0.6), counter(0.9, 0.5))
    wide = torch.nn.Sequential(Power(3.0), counter(0.9, 0.5))
    found = scan([narrow, wide], windows, keep=2)
    assert [start.error for start in found] == [0.0, 0.0]
    assert found[0].pipeline[0].power == 3.0 and found[0].score < 0.5 * found[1].score
    result = fit(
        [narrow, wide], windows, density_steps=0, exact_steps=0, gains=(1.0, 1.0), margin=0.15
    )
    assert result.mean_error == 0 and result.pipeline[0].power == 3.0
    assert result.starts[1] < result.starts[0]


def test_training_finds_room_for_a_pipeline_that_levels_gains_out() -> None:
    """Gains tell nothing about it: it fits at all of them, but only just."""
    windows = pulses(0.4, 1.0)
    arguments = {"density_steps": 0, "exact_steps": 20, "batch": 6, "check_every": 20}
    start = torch.nn.Sequential(Levelled(), counter(0.97, 0.5))
    by_gains = fit(start, windows, **arguments).pipeline[1].threshold.item()
    by_margin = fit(start, windows, margin=0.15, **arguments).pipeline[1].threshold.item()
    assert by_gains > 0.9 and 0.5 < by_margin < 0.8


@pytest.mark.parametrize("margin", [-0.1, math.inf])
def test_a_margin_that_makes_no_sense_is_refused(margin: float) -> None:
    windows = pulses(0.4, 1.0)
    with pytest.raises(ParameterError, match="margin"):
        fit(counter(0.5, 0.2), windows, margin=margin)
    with pytest.raises(ParameterError, match="margin"):
        scan([counter(0.5, 0.2)], windows, margin=margin)


class Thinned(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., ::4]


class Power(torch.nn.Module):
    """Changes how far small and large pulses are apart."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x**self.power


class Levelled(torch.nn.Module):
    """Divides by the maximum; windows without an event keep a small one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height = x.amax(-1, keepdim=True)
        quiet = x[:1].amax() + 0 * height  # the first window has small pulses only
        return torch.where(height > 1.5 * quiet, x / height, 0.4 * x / height)
