"""Oscillators, noise, tables and recordings."""

import numpy as np
import pytest
import torch
from torch import Tensor

import microddsp
from microddsp import dsp
from microddsp.errors import ParameterError
from microddsp.relax_ops.noise import MODULI

FS = 8000.0


def zeros(samples: int, channels: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.zeros(channels, samples, dtype=dtype)


def test_an_oscillator_is_a_sine() -> None:
    block = dsp.Oscillator([440.0, 3900.0], phase=[0.25, 0.0], sample_rate_hz=FS)
    n = torch.arange(2000, dtype=torch.float64)
    f, start = block.frequency_hz.detach()[:, None], torch.tensor([[0.25], [0.0]])
    expected = torch.sin(2 * torch.pi * (f * n / FS + start))
    torch.testing.assert_close(block(zeros(2000, 2)).detach(), expected, rtol=0, atol=1e-9)


def test_the_input_of_an_oscillator_is_hertz() -> None:
    steady = dsp.Oscillator(500.0, sample_rate_hz=FS)(zeros(800)).detach()
    moved = dsp.Oscillator(700.0, sample_rate_hz=FS)(zeros(800) - 200.0).detach()
    torch.testing.assert_close(moved, steady, rtol=0, atol=1e-4)


def test_the_phase_does_not_drift_in_float32() -> None:
    block = dsp.Oscillator(441.3, sample_rate_hz=FS)
    with torch.no_grad(), microddsp.streaming(block):
        for _ in range(10):
            y = block(zeros(20_000, dtype=torch.float32))
        assert block.state_phase[0, 0] == block.state_phase[0, 0].round()
    n = torch.arange(180_000, 200_000, dtype=torch.float64)
    expected = torch.sin(2 * torch.pi * block.frequency_hz.detach() * n / FS)
    assert float((y.double() - expected).abs().max()) < 1e-5


def test_the_frequency_of_a_tone_is_learned() -> None:
    target = dsp.Oscillator(400.0, sample_rate_hz=FS)(zeros(200)).detach()
    learned = dsp.Oscillator(410.0, sample_rate_hz=FS)
    optimiser = torch.optim.Adam(learned.parameters(), lr=0.005)
    for _ in range(300):
        optimiser.zero_grad()
        (learned(zeros(200)) - target).square().mean().backward()
        optimiser.step()
    assert float(learned.frequency_hz.detach()) == pytest.approx(400.0, abs=0.1)
    assert float(learned.phase.detach()) == pytest.approx(0.0, abs=0.01)


def lecuyer(state: list[int], count: int) -> list[int]:
    """The generator for 16-bit computers as printed, before its division by 32363."""
    one, two, three = state
    numbers = []
    for _ in range(count):
        one, two, three = 157 * one % 32363, 146 * two % 31727, 142 * three % 31657
        z = one - two
        if z > 706:
            z -= 32362
        z += three
        if z < 1:
            z += 32362
        numbers.append(z)
    return numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_lecuyers_in_any_float_type(dtype: torch.dtype) -> None:
    block = dsp.Noise(2.0, seed=5)
    x = zeros(5000, 2, dtype=dtype)
    start = block.initial_state(x)["seed"]
    assert bool(((start >= 1) & (start < torch.tensor(MODULI))).all())
    y = block(x).detach().double()
    for row, state in zip(y, start, strict=True):
        levels = 2 * torch.tensor(lecuyer([int(s) for s in state], 5000)).double() - 32363
        rms = (np.arange(-32361.0, 32362, 2) ** 2).mean() ** 0.5
        torch.testing.assert_close(row, 2 * levels / rms, rtol=1e-6, atol=0)


def test_products_of_the_generators_are_exact_for_every_state() -> None:
    for factor, modulus in zip((157, 146, 142), MODULI, strict=True):
        state = np.arange(1, modulus, dtype=np.float32)
        product = state * np.float32(factor)
        left = product - np.trunc(state * np.float32(factor / modulus)) * np.float32(modulus)
        assert np.array_equal(left, np.arange(1, modulus) * factor % modulus)


def test_noise_has_its_level_no_offset_and_no_colour() -> None:
    y = dsp.Noise([0.5, 2.0], seed=1)(zeros(40_000, 2)).detach()
    np.testing.assert_allclose(y.square().mean(-1).sqrt(), [0.5, 2.0], rtol=0.02)
    assert float(y.mean(-1).abs().max()) < 0.02
    normal = y / y.square().mean(-1, keepdim=True).sqrt()
    for shift in (1, 2, 7):
        assert float((normal[:, shift:] * normal[:, :-shift]).mean(-1).abs().max()) < 0.02
    assert float((normal[0] * normal[1]).mean().abs()) < 0.02


def test_seeds_make_other_noise_and_equal_seeds_the_same() -> None:
    x = zeros(100)
    first = dsp.Noise(1.0, seed=1)(x)
    assert torch.equal(dsp.Noise(1.0, seed=1)(x), first)
    assert not torch.allclose(dsp.Noise(1.0, seed=2)(x), first)


def test_a_table_interpolates_as_numpy_does() -> None:
    values = [0.5, 1.0, -1.0, 0.25]
    x = torch.linspace(-2.0, 2.0, 101, dtype=torch.float64)[None]
    y = dsp.Table(values, low=-1.0, high=1.0)(x).detach()
    expected = np.interp(x[0].numpy(), np.linspace(-1, 1, 4), values)
    np.testing.assert_allclose(y[0], expected, rtol=0, atol=1e-12)


def test_a_curve_is_learned() -> None:
    x = torch.rand(1, 500, generator=torch.Generator().manual_seed(0)) * 2 - 1
    learned = dsp.Table(np.zeros(17), low=-1.0, high=1.0)
    optimiser = torch.optim.Adam(learned.parameters(), lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        (learned(x) - torch.tanh(2 * x)).square().mean().backward()
        optimiser.step()
    assert float((learned(x) - torch.tanh(2 * x)).detach().abs().max()) < 0.02


def test_a_recording_plays_once_per_trigger() -> None:
    samples = [3.0, 1.0, 4.0]
    x = torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    y = dsp.Waveform(samples)(x).detach()
    assert y.tolist() == [[0, 3, 1, 4, 0, 0, 3, 1, 3, 1, 4, 0, 0]]


def test_a_recording_plays_slower_and_round() -> None:
    block = dsp.Waveform([0.0, 2.0], speed=0.5, loop=True)
    y = block(zeros(8)).detach()
    torch.testing.assert_close(
        y, torch.tensor([[0.0, 1, 2, 1, 0, 1, 2, 1]], dtype=torch.float64), rtol=0, atol=1e-6
    )


def test_the_place_in_a_long_recording_keeps_its_digits() -> None:
    ramp = np.arange(60_000.0) % 16
    block = dsp.Waveform(ramp, speed=0.7, loop=True)
    y = block(zeros(85_000, dtype=torch.float32)).detach().double()[0]
    place = torch.arange(85_000, dtype=torch.float64) * block.speed.detach()
    index = place.long()
    samples = torch.from_numpy(ramp)
    expected = samples[index] + (place - index) * (samples[index + 1] - samples[index])
    inside = (place - index - 0.5).abs() < 0.49  # where rounding does not choose the neighbour
    # 3e-8 of a place a sample, times the largest slope
    assert float((y - expected)[inside].abs().max()) < 85_000 * 3e-8 * 15


def test_a_loop_takes_any_speed() -> None:
    block = dsp.Waveform([0.0, 1.0, 2.0, 3.0], speed=9.0, loop=True)
    y = block(zeros(6)).detach()
    torch.testing.assert_close(y, torch.tensor([[0.0, 1, 2, 3, 0, 1]]).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dsp.Oscillator(4000.0, sample_rate_hz=FS), "below half"),
        (lambda: dsp.Oscillator(400.0, phase=float("nan"), sample_rate_hz=FS), "phase"),
        (lambda: dsp.Noise(0.0), "level"),
        (lambda: dsp.Noise(1.0, seed=-1), "seed"),
        (lambda: dsp.Table([1.0]), "2 numbers"),
        (lambda: dsp.Table([1.0, float("inf")]), "finite"),
        (lambda: dsp.Table([1.0, 2.0], low=1.0, high=1.0), "low must be below"),
        (lambda: dsp.Waveform([]), "2 numbers"),
        (lambda: dsp.Waveform([1.0, 2.0], speed=-1.0), "speed"),
    ],
)
def test_senseless_sources_are_refused(make, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make()


class Sources(torch.nn.Module):
    """All of them, driven by one signal of triggers."""

    def __init__(self) -> None:
        super().__init__()
        self.silence = dsp.Gain(0.0)
        self.noise = dsp.Noise(0.7, seed=3)
        self.oscillator = dsp.Oscillator(440.0, sample_rate_hz=FS)
        self.curve = dsp.Table([0.0, 1.0, -1.0, 0.5], low=-0.2, high=1.1)
        self.recording = dsp.Waveform([0.5, 1.0, -1.0, 0.25, 0.75], speed=0.7)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {
            "noise": self.noise(self.silence(x)),
            "tone": self.oscillator(x * 50.0),
            "curve": self.curve(x),
            "recording": self.recording(x),
        }


@pytest.mark.qemu
def test_a_device_makes_the_same_sounds() -> None:
    x = torch.zeros(1, 960)
    x[0, [5, 6, 30, 500]] = 1.0
    model = microddsp.compile(Sources(), x[:, :32], target="cortex-m4f", name="sources")
    with microddsp.open_board("mps2-an386", model) as board:
        got = board.run(x)
    with torch.no_grad():
        expected = Sources()(x)
    assert torch.equal(got["noise"], expected["noise"])
    for name in ("tone", "curve", "recording"):
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=2e-6)
