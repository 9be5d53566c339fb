"""A delay driven by another signal: against interpolation, in training, in streams, on devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import microddsp
from microddsp import dsp, relax_ops
from microddsp.errors import ParameterError, SignalError

FS = 8000.0
MOST = 40  # samples, the longest delay below


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def swept() -> dsp.SweptDelay:
    return dsp.SweptDelay(MOST / FS, sample_rate_hz=FS)


def delays(*shape: int) -> Tensor:
    """From 0 to the longest, in seconds, different at every sample."""
    share = torch.rand(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return share * MOST / FS


@pytest.mark.parametrize("samples", [0, 1, 7, MOST])
def test_at_a_constant_whole_length_it_is_the_delay(samples: int) -> None:
    x = noise(2, 200)
    y = swept()(x, torch.full_like(x, samples / FS))
    expected = dsp.Delay(samples)(x) if samples else x
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


def test_it_reads_on_the_straight_line_between_two_samples() -> None:
    x, delay = noise(3, 2, 150), delays(3, 2, 150)
    y = swept()(x, delay)
    ages = np.arange(150) - delay.numpy() * FS
    for row in np.ndindex(3, 2):
        past = np.concatenate([np.zeros(MOST), x[row].numpy()])
        expected = np.interp(ages[row], np.arange(-MOST, 150), past)
        np.testing.assert_allclose(y[row], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sizes", [[1, 40, 49], [7] * 12 + [6], [90]])
def test_any_chunking_equals_the_whole(sizes: list[int]) -> None:
    x, delay = noise(3, 2, 90), delays(3, 1, 90).expand(3, 2, 90)
    block = swept()
    whole = block(x, delay)
    parts = list(zip(x.split(sizes, -1), delay.split(sizes, -1), strict=True))
    with torch.no_grad(), microddsp.streaming(block):
        streamed = torch.cat([block(*part) for part in parts], -1)
    torch.testing.assert_close(streamed, whole, rtol=0, atol=0)
    outputs, state = [], None
    for part in parts:
        y, state = microddsp.step(block, part, state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, -1), whole, rtol=0, atol=0)
    torch.testing.assert_close(block(x[1], delay[1]), whole[1], rtol=0, atol=0)


def test_gradients_to_both_signals_and_the_past_are_right() -> None:
    x, line = noise(2, 2, 12), noise(2, 2, 6, seed=1)
    delay = 0.5 + 3.0 * noise(2, 2, 12, seed=2).sigmoid()
    place = torch.tensor([[[0], [2]], [[5], [4]]], dtype=torch.int32)

    def run(*values: Tensor) -> tuple[Tensor, Tensor]:
        y, following, _ = relax_ops.swept_delay(*values, place)
        return y, following

    values = [v.requires_grad_() for v in (x, delay, line)]
    assert torch.autograd.gradcheck(run, values, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, values)


def test_beyond_its_bounds_the_delay_is_held_and_has_no_gradient() -> None:
    x = noise(1, 60)
    for beyond, held in ((-1.0, 0.0), (7.0, MOST / FS), (float("inf"), MOST / FS)):
        delay = torch.full_like(x, beyond).requires_grad_()
        y = swept()(x, delay)
        torch.testing.assert_close(y, swept()(x, torch.full_like(x, held)), rtol=0, atol=1e-12)
        (gradient,) = torch.autograd.grad(y.sum(), delay)
        assert not gradient.any()


class Chorus(torch.nn.Module):
    """The signal beside itself, later by a time that an oscillator moves."""

    def __init__(self, offset_ms: float, depth_ms: float, rate_hz: float) -> None:
        super().__init__()
        self.sway = dsp.Oscillator(rate_hz, sample_rate_hz=FS)
        self.depth = dsp.Gain(depth_ms)
        self.offset = dsp.Offset(offset_ms)
        self.delay = dsp.SweptDelay(0.006, sample_rate_hz=FS)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.delay(x, 0.001 * self.offset(self.depth(self.sway(0.0 * x))))


def test_a_chorus_is_learned_from_what_it_did() -> None:
    x = dsp.Lowpass(300.0, 2, sample_rate_hz=FS)(noise(1, 2000)).detach()
    with torch.no_grad():
        target = Chorus(3.0, 1.2, 6.0)(x)
    learned = Chorus(2.7, 0.9, 5.6)
    optimiser = torch.optim.Adam(learned.parameters(), lr=0.03)
    for _ in range(200):
        optimiser.zero_grad()
        loss = (learned(x) - target).square().mean()
        loss.backward()
        optimiser.step()
    assert float(learned.sway.frequency_hz.detach()) == pytest.approx(6.0, abs=0.05)
    assert float(learned.offset.offset.detach()) == pytest.approx(3.0, abs=0.02)
    assert float(learned.depth.gain.detach()) == pytest.approx(1.2, abs=0.03)


class TwoTaps(torch.nn.Module):
    """Two delays read one line, and a part of the line is heard too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("line", torch.zeros(2, 32), persistent=False)
        self.register_buffer("place", torch.zeros(2, 1, dtype=torch.int32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        near, line, place = relax_ops.swept_delay(x, 3.0 + x, self.line, self.place)
        far, _, _ = relax_ops.swept_delay(x, 25.0 + x, self.line, self.place)
        y = near - 0.5 * far + self.line[:, 3:4]
        self.line.copy_(line)
        self.place.copy_(place)
        return y


class Driven(torch.nn.Module):
    """What a delay may meet: an oscillator, an envelope, another input, events before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.chorus = Chorus(3.0, 4.5, 30.0)  # below zero and beyond the longest at times
        self.height = dsp.Envelope(0.001, 0.02, sample_rate_hz=FS)
        self.duck = dsp.SweptFilter("lowpass", None, sample_rate_hz=FS)
        self.given = swept()
        self.events = dsp.EventCounter(
            threshold=0.8, hysteresis=0.5, refractory_s=0.001, sample_rate_hz=FS, per_sample=True
        )
        self.echo = dsp.SweptDelay(0.002, sample_rate_hz=FS)
        self.count = dsp.EventCounter(
            threshold=0.8, hysteresis=0.5, refractory_s=0.001, sample_rate_hz=FS
        )
        self.taps = TwoTaps()
        self.odd = swept()

    def forward(self, x: Tensor, delay_s: Tensor) -> dict[str, Tensor]:
        height = self.height(x)
        echo = self.echo(self.events(x), 0.0 * x + 0.001)
        return {
            "chorus": self.chorus(x),
            "ducked": self.duck(x, 3000.0 - 2000.0 * height, 0.5 + height),
            "given": self.given(x, delay_s),
            "echo": echo,
            "count": self.count(echo),
            "taps": self.taps(x),
            "odd": self.odd(x, torch.sqrt(delay_s - 0.0002)),  # a NaN here and there
        }


def inputs(samples: int) -> tuple[Tensor, Tensor]:
    return noise(2, samples).float(), delays(1, samples).float()


def compare(got: dict[str, Tensor], *signals: Tensor, block: int) -> None:
    module = Driven()
    outputs = []
    with torch.no_grad(), microddsp.streaming(module):
        for part in zip(*(s.split(block, -1) for s in signals), strict=True):
            outputs.append(module(*part))
    for name, value in outputs[0].items():
        if name == "count":
            assert got[name].flatten()[-1] == outputs[-1][name].flatten()[-1] > 3
            continue
        value = torch.cat([y[name] for y in outputs], -1)
        assert 0 < value.isnan().sum() < 100 if name == "odd" else not value.isnan().any()
        scale = float(value.nan_to_num().abs().max())
        torch.testing.assert_close(
            torch.as_tensor(got[name]), value, rtol=0, atol=1e-5 * scale, equal_nan=True
        )


def test_it_compiles_with_what_drives_it() -> None:
    x, delay = inputs(200)
    model = microddsp.compile(Driven(), [x[:, :1], delay[:, :1]], target="host", name="driven")
    compare(model.run(x, delay), x, delay, block=1)


@pytest.mark.qemu
def test_a_device_sweeps_the_same() -> None:
    x, delay = inputs(640)
    model = microddsp.compile(
        Driven(), [x[:, :32], delay[:, :32]], target="cortex-m4f", name="driven"
    )
    with microddsp.open_board("mps2-an386", model) as board:
        compare(board.run(x, delay), x, delay, block=32)


def test_a_moving_delay_is_one_loop_and_keeps_its_line_in_place() -> None:
    x = torch.zeros(1, 32)
    model = microddsp.compile(Chorus(3.0, 1.0, 5.0), x, target="cortex-m4f", name="chorus")
    assert model.sources["chorus.c"].count("static void chorus_k") == 1
    assert model.memory.arena_bytes == 0
    assert model.memory.state_bytes < 4 * (48 + 2 + 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_delay_s": 0.0}, "max_delay_s must be positive"),
        ({"max_delay_s": float("nan")}, "max_delay_s must be positive"),
        ({"max_delay_s": 0.1, "sample_rate_hz": -1.0}, "sample_rate_hz must be positive"),
    ],
)
def test_senseless_delays_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        dsp.SweptDelay(**{"sample_rate_hz": FS} | arguments)


@pytest.mark.parametrize(
    "delay",
    [torch.zeros(1, 9).double(), torch.zeros(1, 8), torch.zeros(3, 8).double()],
)
def test_a_delay_that_does_not_fit_is_refused(delay: Tensor) -> None:
    with pytest.raises(SignalError, match="delay_s"):
        swept()(noise(2, 8), delay)
