"""Onset strength, peaks and onsets against their definitions, streamed and on the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import microddsp
from microddsp import dsp, relax_ops
from microddsp.errors import ParameterError, SignalError
from microddsp.relax_ops.moving_max import _plain, unknown_past

FS = 100.0


def feature(samples: int, channels: int = 2, seed: int = 0, steps: int = 12) -> Tensor:
    """Noise in a few steps, so that plateaus and equal peaks occur."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, steps, (channels, samples), generator=generator).double() / 8


def oracle(
    x: np.ndarray, threshold: float, back: int, ahead: int, refractory: int, share: float = 0.0
) -> np.ndarray:
    """The definition, sample by sample."""
    events = np.zeros_like(x)
    for row, out in zip(x, events, strict=True):
        mean, means = 0.0, []
        for value in row:
            means.append(mean)
            mean += share * (value - mean)
        last = -refractory - 1
        for n in range(back + ahead, len(row)):
            k = n - ahead
            higher = (row[k] > row[k - back : k]).all() and (row[k] >= row[k : n + 1]).all()
            if higher and row[k] > means[k] + threshold and n - last > refractory:
                out[n], last = 1.0, n
    return events


def picker(**changed) -> dsp.PeakPicker:
    given = {"look_back_s": 0.05, "lookahead_s": 0.02, "refractory_s": 0.07} | changed
    return dsp.PeakPicker(given.pop("threshold", 0.6), sample_rate_hz=FS, **given)


@pytest.mark.parametrize("width", [1, 2, 7, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_moving_maximum_is_that_of_a_window(width: int, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 150, generator=torch.Generator().manual_seed(width)).to(dtype)
    state = unknown_past(width).to(dtype).repeat(2, 3, 1)
    parts = []
    for part in x.split([1, 40, 2, 107], -1):
        y, state = relax_ops.moving_max(part, state)
        parts.append(y)
    padded = torch.nn.functional.pad(x, (width - 1, 0), value=float(unknown_past(1)[0]))
    expected = padded.unfold(-1, width, 1).amax(-1)
    assert torch.equal(torch.cat(parts, -1), expected)
    plain = _plain(x, unknown_past(width).to(dtype).repeat(2, 3, 1))
    torch.testing.assert_close(plain, (expected, state), rtol=0, atol=0)


def test_the_operator_of_the_moving_maximum_passes_opcheck() -> None:
    x, state = torch.randn(2, 9), unknown_past(4).repeat(2, 1)
    torch.library.opcheck(torch.ops.microddsp.moving_max.default, (x, state))


@settings(max_examples=30, deadline=None)
@given(
    back=st.integers(1, 9),
    ahead=st.integers(0, 9),
    refractory=st.integers(0, 12),
    mean=st.sampled_from([None, 0.1]),
    seed=st.integers(0, 99),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
)
def test_peaks_are_those_of_the_definition_in_any_chunks(
    back: int, ahead: int, refractory: int, mean: float | None, seed: int, sizes: list[int]
) -> None:
    ahead = min(ahead, back)
    block = dsp.PeakPicker(
        0.4,
        look_back_s=back / FS,
        lookahead_s=ahead / FS,
        mean_s=mean,
        refractory_s=refractory / FS,
        sample_rate_hz=FS,
    )
    x = feature(sum(sizes), seed=seed)
    share = 0.0 if mean is None else 1 - np.exp(-1 / (mean * FS))
    expected = oracle(x.numpy(), float(block.threshold.detach()), back, ahead, refractory, share)
    with torch.no_grad():
        np.testing.assert_array_equal(block(x), expected)
        with microddsp.streaming(block):
            streamed = torch.cat([block(part) for part in x.split(sizes, -1)], -1)
    np.testing.assert_array_equal(streamed, expected)


def test_a_start_on_a_high_level_is_no_peak() -> None:
    x = torch.linspace(5.0, 0.0, 60)[None]
    assert float(picker()(x).detach().sum()) == 0.0


def test_training_sees_the_exact_events_and_moves_threshold_and_heights() -> None:
    block = picker(mean_s=0.5).double()
    x = feature(200).requires_grad_()
    with torch.no_grad():
        exact = block(x)
    events = block(x)
    torch.testing.assert_close(events.detach(), exact, rtol=0, atol=1e-12)
    events.sum().backward()
    assert float(block.level.raw.grad) < 0  # a higher threshold, fewer events
    assert x.grad is not None and bool((x.grad != 0).any())


def test_a_threshold_is_learned_from_a_count() -> None:
    x = torch.zeros(1, 1000)
    x[0, 50::100] = 1.0
    x[0, 100::100] = 0.4
    block = picker(threshold=0.2)
    optimiser = torch.optim.Adam(block.parameters(), lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        count = block(x).sum()
        (count - 10.0).square().backward()
        optimiser.step()
    assert float(block(x).sum().detach()) == 10.0
    assert 0.4 < float(block.threshold.detach()) < 1.0


def test_the_gradient_of_the_surrogate_is_that_of_its_soft_peaks() -> None:
    block = picker().double()
    x = feature(60, channels=1)

    def soft(value: Tensor, raw: Tensor) -> Tensor:
        state = block.initial_state(value)
        highest, _ = relax_ops.moving_max(value, state["past"])
        given = {"block.level.raw": raw}
        return torch.func.functional_call(Soft(block), given, (value, highest, state["machine"]))

    raw = block.level.raw.detach().clone().requires_grad_()
    x = x + 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    assert torch.autograd.gradcheck(soft, (x.requires_grad_(), raw))


class Soft(torch.nn.Module):
    def __init__(self, block: dsp.PeakPicker) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, highest: Tensor, machine: Tensor) -> Tensor:
        return self.block._soft_peaks(x, highest, machine)


def test_onset_strength_is_the_mean_rise_of_the_logarithms() -> None:
    block = dsp.OnsetStrength([3.0, 10.0], lag_s=0.02, sample_rate_hz=FS)
    x = feature(50, steps=30) - 0.5
    levels = np.log1p(np.array([[3.0], [10.0]]) * np.maximum(x.numpy(), 0.0))
    before = np.pad(levels, ((0, 0), (2, 0)))[:, :-2]
    expected = np.maximum(levels - before, 0.0).mean(0, keepdims=True)
    np.testing.assert_allclose(block(x).detach(), expected, rtol=1e-6)


def detector() -> dsp.OnsetDetector:
    return dsp.OnsetDetector(
        dsp.OnsetStrength(20.0, lag_s=0.02, sample_rate_hz=FS),
        dsp.PeakPicker(
            0.5, look_back_s=0.05, lookahead_s=0.02, refractory_s=0.1, sample_rate_hz=FS
        ),
    )


def strokes(samples: int = 480) -> tuple[Tensor, list[int]]:
    """Two bands that are struck every now and then, and decay."""
    starts = [40, 97, 190, 260, 371]
    time = torch.arange(samples, dtype=torch.float32)
    level = sum(torch.where(time >= s, torch.exp((s - time) / 15.0), 0.0) for s in starts)
    noise = torch.rand(2, samples, generator=torch.Generator().manual_seed(2)) * 0.01
    return level * torch.tensor([[1.0], [0.6]]) + noise, starts


def test_onsets_are_found_where_they_are() -> None:
    x, starts = strokes()
    block = detector()
    found = block(x).detach()[0].nonzero().flatten() - block.delay_samples
    # the rise over two samples is as large one sample later
    assert [int(f) for f in found] == pytest.approx(starts, abs=1)


class Parts(torch.nn.Module):
    """The detector with the strength that it decides on."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = detector()
        self.mean = dsp.PeakPicker(
            0.3, look_back_s=0.03, mean_s=0.2, refractory_s=0.05, sample_rate_hz=FS
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        strength = self.detector.strength(x)
        return {
            "strength": strength,
            "events": self.detector.picker(strength),
            "above_mean": self.mean(x),
        }


@pytest.mark.parametrize("block", [1, 16])
def test_onsets_compile(block: int) -> None:
    x, _ = strokes()
    model = microddsp.compile(Parts(), x[:, :block], target="host", name="onsets")
    compare(model.run(x), x)


@pytest.mark.qemu
def test_a_device_finds_the_same_onsets() -> None:
    x, _ = strokes()
    model = microddsp.compile(Parts(), x[:, :32], target="cortex-m4f", name="onsets")
    with microddsp.open_board("mps2-an386", model) as board:
        compare(board.run(x), x)


def compare(got: dict[str, Tensor], x: Tensor) -> None:
    with torch.no_grad():
        expected = Parts()(x)
    torch.testing.assert_close(got["strength"], expected["strength"], rtol=1e-5, atol=1e-6)
    assert float(expected["events"].sum()) == 5 and float(expected["above_mean"].sum()) > 5
    for name in ("events", "above_mean"):
        assert torch.equal(got[name], expected[name])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: picker(threshold=0.0), "threshold"),
        (lambda: picker(look_back_s=0.001), "look_back_s"),
        (lambda: picker(look_back_s=float("nan")), "look_back_s"),
        (lambda: picker(lookahead_s=0.06), "at most look_back_s"),
        (lambda: picker(refractory_s=-1.0), "refractory_s"),
        (lambda: picker(mean_s=0.0), "mean_s"),
        (lambda: dsp.OnsetStrength(0.0, lag_s=0.1, sample_rate_hz=FS), "gain"),
        (lambda: dsp.OnsetStrength(lag_s=0.001, sample_rate_hz=FS), "at least a sample"),
        (
            lambda: dsp.OnsetDetector(
                dsp.OnsetStrength(lag_s=0.1, sample_rate_hz=FS), picker(look_back_s=0.05)
            ),
            "looks back",
        ),
        (
            lambda: dsp.OnsetDetector(dsp.OnsetStrength(lag_s=0.1, sample_rate_hz=50.0), picker()),
            "sample_rate_hz",
        ),
    ],
)
def test_senseless_onsets_are_refused(make, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make()


def test_a_state_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SignalError, match=r"width \+ 2"):
        relax_ops.moving_max(torch.zeros(2, 4), torch.zeros(2, 2))
