"""Learning from counts: windows, the fit, and that nothing is lost when it goes wrong."""

import numpy as np
import pytest
import torch

import microddsp
from microddsp import dsp
from microddsp.errors import MicroddspError, ParameterError, SignalError
from microddsp.training import Windows, count_loss, cut_windows, fit, window_counts

RATE = 1000.0


def plops(seed: int, windows: int = 24, samples: int = 2000) -> Windows:
    """Short 80 Hz bursts to count, among louder 250 Hz clicks; labels are counts only."""
    rng = np.random.default_rng(seed)
    x = 0.02 * rng.standard_normal((windows, samples))
    counts = rng.integers(0, 7, windows)
    t = np.arange(80)
    burst = np.exp(-t / 25) * np.sin(2 * np.pi * 80 * t / RATE)
    click = np.exp(-t[:40] / 8) * np.sin(2 * np.pi * 250 * t[:40] / RATE)
    for row, count in enumerate(counts):
        for place in 300 + 230 * rng.choice(7, count, replace=False):
            x[row, place : place + 80] += rng.uniform(0.4, 0.8) * burst
        for place in rng.integers(300, samples - 50, 4):
            x[row, place : place + 40] += 1.2 * click
    known = torch.ones(windows, samples, dtype=torch.bool)
    return Windows(torch.tensor(x[:, None]).float(), known, torch.tensor(counts).float())


def counter(low: float = 60.0, high: float = 160.0, threshold: float = 0.1) -> torch.nn.Module:
    return torch.nn.Sequential(
        dsp.Bandpass(low, high, 2, sample_rate_hz=RATE),
        dsp.Envelope(0.005, 0.03, sample_rate_hz=RATE),
        dsp.EventCounter(threshold, 0.5, refractory_s=0.1, sample_rate_hz=RATE),
    )


def error(pipeline: torch.nn.Module, windows: Windows) -> float:
    with torch.no_grad():
        return float((window_counts(pipeline, windows) - windows.counts).abs().mean())


def test_counts_alone_teach_the_pipeline_to_count() -> None:
    seen, held_out = plops(1), plops(2)
    starts = [counter(threshold=t) for t in (0.03, 0.3)]
    result = fit(starts, seen, density_steps=40, exact_steps=120, batch=24)
    assert min(error(start, held_out) for start in starts) > 0.7
    assert error(result.pipeline, held_out) < 0.35
    assert result.mean_error == error(result.pipeline, seen)
    assert len(result.starts) == 2


def test_fit_leaves_its_starts_as_they_were() -> None:
    start = counter()
    before = {name: value.clone() for name, value in start.state_dict().items()}
    fit(start, plops(1, windows=4), density_steps=2, exact_steps=2)
    for name, value in start.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_same_seed_gives_the_same_pipeline() -> None:
    windows = plops(1, windows=6)
    a, b = (fit(counter(), windows, density_steps=3, exact_steps=3, batch=3) for _ in range(2))
    for one, other in zip(a.pipeline.parameters(), b.pipeline.parameters(), strict=True):
        assert torch.equal(one, other)
    assert a.history == b.history


def test_a_gradient_that_is_not_finite_stops_and_is_named() -> None:
    class Exploding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(0.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.sqrt(self.weight.abs())

    pipeline = torch.nn.Sequential(Exploding(), *counter())
    with pytest.raises(MicroddspError, match="0.weight.*NaN or infinite"):
        fit(pipeline, plops(1, windows=4), density_steps=1, exact_steps=1)


def test_windows_have_a_lead_in_and_count_only_what_is_known() -> None:
    recording = torch.arange(100.0)[None]
    known = torch.ones(100, dtype=torch.bool)
    known[25:30] = False
    windows = cut_windows(
        recording, [5, 22, 27, 55], length_s=2.0, settle_s=0.5, sample_rate_hz=10.0, known=known
    )
    assert windows.signals.shape == (5, 1, 25)
    assert windows.counts.tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert windows.signals[0, 0, :6].tolist() == [0.0] * 6  # the first sample is repeated
    assert windows.signals[1, 0, 5].item() == 20.0
    assert not windows.known[:, :5].any() and windows.known[1, 5:10].all()
    assert not windows.known[1, 10:15].any()


def test_windows_may_overlap() -> None:
    windows = cut_windows(
        torch.zeros(1, 40), [15], length_s=2.0, settle_s=0.0, sample_rate_hz=10.0, hop_s=1.0
    )
    assert windows.counts.tolist() == [1.0, 1.0, 0.0]


def test_windowed_and_streaming_counts_agree_on_a_signal_with_an_offset() -> None:
    """Gravity, an ADC's bias: filters settle on the first sample, windows have a lead-in."""
    pipeline = torch.nn.Sequential(
        dsp.Bandpass(60.0, 160.0, 2, sample_rate_hz=RATE, initial="first_sample"),
        *counter()[1:],
    )
    one = plops(3, windows=1, samples=6000)
    recording = one.signals[0] + 9.81
    with torch.no_grad(), microddsp.streaming(pipeline):
        running = torch.cat([pipeline(block) for block in recording.split(100, -1)], -1)[0]
    streamed = torch.diff(running[[0, 19, 39, 59]], prepend=running[:1])[1:]
    windows = cut_windows(recording, [], length_s=2.0, settle_s=0.5, sample_rate_hz=RATE)
    with torch.no_grad():
        counted = window_counts(pipeline, windows)
    assert counted.tolist() == streamed.tolist()
    assert counted.sum() > 0


def test_pipelines_that_lower_the_rate_are_counted_where_something_is_known() -> None:
    slow = RATE / 5
    pipeline = torch.nn.Sequential(
        dsp.Decimate(5), dsp.EventCounter(0.5, refractory_s=0.0, sample_rate_hz=slow)
    )
    signals, known = torch.zeros(2, 1, 100), torch.ones(2, 100, dtype=torch.bool)
    signals[:, 0, [20, 40, 60]] = 1.0
    known[1, 36:45] = False  # the second event of the second window, and its neighbours
    windows = Windows(signals, known, torch.tensor([3.0, 2.0]))
    assert window_counts(pipeline, windows).tolist() == [3.0, 2.0]
    uneven = Windows(signals[..., :95], known[:, :95], windows.counts)
    twice = torch.nn.Sequential(dsp.Resample(3, 5), pipeline[1])
    with pytest.raises(SignalError, match="95 samples gave 57"):
        window_counts(twice, uneven)


def test_the_count_loss_is_zero_only_for_the_right_count() -> None:
    counts = torch.tensor([2.0, 0.0])
    assert count_loss(counts, counts) == 0
    assert count_loss(counts + 1, counts) > 0


@pytest.mark.parametrize(
    ("change", "error_type", "message"),
    [
        ({"length_s": 0.0}, ParameterError, "length_s"),
        ({"length_s": 99.0}, SignalError, "less than one window"),
        ({"settle_s": -1.0}, ParameterError, "settle_s"),
    ],
)
def test_windows_that_cannot_be_are_refused(change, error_type, message) -> None:
    arguments = {"length_s": 1.0, "settle_s": 0.0, "sample_rate_hz": 10.0} | change
    with pytest.raises(error_type, match=message):
        cut_windows(torch.zeros(1, 40), [], **arguments)


def test_training_without_a_counter_or_with_nan_is_refused() -> None:
    windows = plops(1, windows=2)
    with pytest.raises(ParameterError, match="one EventCounter"):
        fit(dsp.Gain(), windows)
    broken = Windows(windows.signals * torch.nan, windows.known, windows.counts)
    with pytest.raises(SignalError, match="finite"):
        fit(counter(), broken)
