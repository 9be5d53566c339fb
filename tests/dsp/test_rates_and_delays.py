"""Delays, other rates, running means and choices against scipy, and what they learn."""

import warnings

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

import microddsp
from microddsp import dsp

FS = 8000.0


def noise(samples: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, samples, generator=generator, dtype=torch.float64)


def test_a_delay_in_seconds_is_one_in_samples() -> None:
    assert dsp.Delay(delay_s=0.01, sample_rate_hz=FS).samples == 80
    x = noise(200)
    y = dsp.Delay(80)(x)
    assert torch.equal(y[:, 80:], x[:, :-80]) and not y[:, :80].any()


@pytest.mark.parametrize(("interpolation", "within"), [("linear", 3e-3), ("lagrange", 1e-5)])
@pytest.mark.parametrize("samples", [1.2, 7.0, 12.75])
def test_a_fractional_delay_shifts_a_slow_wave(
    interpolation: str, within: float, samples: float
) -> None:
    block = dsp.LearnableDelay(
        samples / FS, max_s=20 / FS, sample_rate_hz=FS, interpolation=interpolation
    )
    w = 2 * torch.pi * 150.0 / FS
    n = torch.arange(400, dtype=torch.float64)[None]
    y = block(torch.sin(w * n)).detach()
    expected = torch.sin(w * (n - samples))
    torch.testing.assert_close(y[:, 20:], expected[:, 20:], rtol=0, atol=within)


def test_a_delay_is_learned_to_a_hundredth_of_a_sample() -> None:
    smooth = dsp.Lowpass(300.0, 4, sample_rate_hz=FS)
    x = smooth(noise(2000)).detach()
    target = dsp.LearnableDelay(9.3 / FS, max_s=20 / FS, sample_rate_hz=FS)(x).detach()
    learned = dsp.LearnableDelay(5.0 / FS, max_s=20 / FS, sample_rate_hz=FS)
    optimiser = torch.optim.Adam(learned.parameters(), lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        (learned(x) - target).square().mean().backward()
        optimiser.step()
    assert float(learned.delay_s.detach()) * FS == pytest.approx(9.3, abs=0.01)


def test_no_step_leaves_the_range_of_a_delay() -> None:
    block = dsp.LearnableDelay(5.0 / FS, max_s=20 / FS, sample_rate_hz=FS, interpolation="lagrange")
    for move in (-100.0, 200.0):
        with torch.no_grad():
            block.delay.raw.add_(move)
        assert bool(torch.isfinite(block(noise(50))).all())


@pytest.mark.parametrize(("up", "down"), [(1, 4), (2, 1), (3, 4), (160, 147), (2, 6)])
def test_resampling_is_scipys_up_to_its_delay(up: int, down: int) -> None:
    block = dsp.Resample(up, down, sample_rate_hz=FS)
    x = noise(147 * 12)
    y = block(x)[0].detach().numpy()
    late = (block.taps.shape[0] - 1) // 2
    taps = block.taps.detach().double().numpy()
    expected = scipy.signal.upfirdn(taps, x[0].numpy(), block.up, block.down)[: len(y)]
    np.testing.assert_allclose(y, expected, atol=1e-12)
    if late % block.down == 0:
        skip = late // block.down
        theirs = scipy.signal.resample_poly(x[0].numpy(), up, down)[: len(y) - skip]
        np.testing.assert_allclose(y[skip:], theirs, atol=1e-6)


def test_a_slow_wave_survives_resampling_and_a_fast_one_does_not() -> None:
    n = torch.arange(4000, dtype=torch.float64)[None]
    block = dsp.Resample(1, 4, sample_rate_hz=FS)
    slow = block(torch.sin(2 * torch.pi * 200.0 * n / FS)).detach()[:, 50:]
    fast = block(torch.sin(2 * torch.pi * 1900.0 * n / FS)).detach()[:, 50:]
    power = float(slow[:, :900].square().mean())  # whole periods
    assert power == pytest.approx(0.5, abs=2e-3)
    assert float(fast.abs().max()) < 2e-3
    assert block.delay_s == 40 / FS


@pytest.mark.parametrize(
    ("b", "a"),
    [
        ([0.5, 0.25], [1.0, -0.7]),
        ([0.0, 0.0, 2.0, 1.0], [2.0, -0.7, 0.3]),
        ([1.0, 2.0, 3.0, 4.0, 5.0], [1.0]),
        ([3.0], [1.0, 0.1, -0.2, 0.05, 0.3]),
        scipy.signal.butter(5, [0.1, 0.3], "bandpass"),
        scipy.signal.ellip(6, 1, 60, 0.2),
    ],
)
def test_a_general_recursion_is_lfilter(b, a) -> None:
    x = noise(500)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        block = dsp.IIR(b, a, sample_rate_hz=FS)
    expected = scipy.signal.lfilter(b, a, x[0].numpy())
    y = block(x)[0].detach().numpy()
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_the_root_mean_square_of_a_sine_is_known() -> None:
    n = torch.arange(8000, dtype=torch.float64)[None]
    x = 3.0 * torch.sin(2 * torch.pi * 400.0 * n / FS)
    for block in (dsp.RMS(0.05, sample_rate_hz=FS), dsp.RMS(window_s=0.01, sample_rate_hz=FS)):
        y = block(x).detach()
        assert float(y[0, -1]) == pytest.approx(3.0 * 0.5**0.5, rel=5e-3)
    assert float(dsp.RMS(0.05, sample_rate_hz=FS, floor=1e-3)(x * 0)[0, 0]) == pytest.approx(1e-3)


def test_silence_has_a_gradient() -> None:
    x = torch.zeros(1, 20, requires_grad=True)
    block = dsp.RMS(0.01, sample_rate_hz=FS)
    block(x).sum().backward()
    assert bool(torch.isfinite(x.grad).all())
    assert all(bool(torch.isfinite(p.grad).all()) for p in block.parameters())


def test_a_mixture_learns_which_branch_made_the_signal() -> None:
    x = noise(400)
    target = dsp.Lowpass(500.0, 2, sample_rate_hz=FS)(x).detach()
    select = dsp.Select(
        [
            dsp.Gain(1.0),
            dsp.Highpass(500.0, 2, sample_rate_hz=FS),
            dsp.Lowpass(500.0, 2, sample_rate_hz=FS),
        ]
    )
    select.branches.requires_grad_(False)
    assert select.shares.tolist() == pytest.approx([1 / 3] * 3)
    optimiser = torch.optim.Adam([select.logits], lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        (select(x) - target).square().mean().backward()
        optimiser.step()
    assert select.choice == 2
    torch.testing.assert_close(select.eval()(x), target)


def test_only_the_chosen_branch_is_in_the_c() -> None:
    def size(choice: int) -> tuple[int, str]:
        select = dsp.Select([dsp.Gain(2.0), dsp.FIR(np.ones(200))])
        with torch.no_grad():
            select.logits[choice] = 1.0
        # in training, too: a device has no use for a mixture
        model = microddsp.compile(select, torch.zeros(1, 16), target="host", name="m")
        return model.signature.state_bytes, model.sources["m.c"]

    assert size(0)[0] < 200 * 4 < size(1)[0]
    assert "fir" not in size(0)[1] and "fir" in size(1)[1]


def test_a_low_filter_at_a_low_rate_is_more_precise_and_the_same() -> None:
    def low(rate: float) -> dsp.Biquad:
        return dsp.Biquad.bandpass(2.0, 2.0, sample_rate_hz=rate, form="direct")

    chain = dsp.decimate_then_filter(low, keep_hz=4.0, sample_rate_hz=FS)
    assert chain[1].factor == 128 and chain[2].sample_rate_hz == FS / 128
    x = noise(128 * 400)

    def error(module: torch.nn.Module) -> float:
        exact = module(x).detach()
        return float((module(x.float()).double() - exact).abs().max() / exact.abs().max())

    assert error(chain) < 1e-5 < 1e-3 < error(low(FS))
    n = torch.arange(128 * 400, dtype=torch.float64)[None]
    wave = torch.sin(2 * torch.pi * 2.0 * n / FS)
    height = chain(wave).detach()[0, 300:].abs().max()
    assert float(height) == pytest.approx(1.0, abs=0.01)
