"""A filter driven by another signal: against fixed filters, in training, in streams, on devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import microddsp
from microddsp import dsp
from microddsp.dsp.swept_filter import RESPONSES
from microddsp.errors import ParameterError, SignalError

FS = 8000.0


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sweep(samples: int, low: float = 100.0, high: float = 3000.0) -> Tensor:
    """Up and down, exponentially."""
    turn = torch.sin(torch.linspace(0.0, 9.0, samples, dtype=torch.float64))
    return low * (high / low) ** (0.5 + 0.5 * turn)[None]


def swept(response: str = "lowpass", q: float = 2.0, **bounds: float) -> dsp.SweptFilter:
    return dsp.SweptFilter(response, q, sample_rate_hz=FS, **bounds)


def follows(response: str = "lowpass", **bounds: float) -> dsp.SweptFilter:
    return dsp.SweptFilter(response, None, sample_rate_hz=FS, **bounds)


@pytest.mark.parametrize("response", RESPONSES)
@pytest.mark.parametrize("frequency", [20.0, 700.0, 3100.0])
def test_at_a_constant_cut_off_it_is_the_biquad(response: str, frequency: float) -> None:
    x = noise(2, 800)
    block = swept(response)
    q = float(block.q.detach())
    biquad = dsp.Biquad(response, frequency, q, FS, form="direct")
    y = block(x, torch.full_like(x, float(biquad.f0_hz.detach())))
    torch.testing.assert_close(y.detach(), biquad(x).detach(), rtol=1e-7, atol=1e-7)


def test_it_is_two_trapezoidal_integrators_with_a_moving_cut_off() -> None:
    x, cutoff = noise(1, 400), sweep(400)
    block = swept("bandpass", 3.0)
    k = 1 / float(block.q.detach())
    expected, (s1, s2) = [], (0.0, 0.0)
    for value, f in zip(x[0].tolist(), cutoff[0].tolist(), strict=True):
        g = np.tan(np.pi * f / FS)
        # the voltages of both capacitors after a trapezoidal step, solved as a linear system
        band, low = np.linalg.solve([[1 + g * k, g], [-g, 1.0]], [s1 + g * value, s2])
        s1, s2 = 2 * band - s1, 2 * low - s2
        expected.append(k * band)
    np.testing.assert_allclose(block(x, cutoff).detach()[0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("response", RESPONSES)
def test_at_a_constant_quality_signal_it_is_the_filter_of_that_quality(response: str) -> None:
    x, cutoff = noise(2, 2, 400), sweep(400).expand(2, 1, 400)
    quality = torch.tensor([[0.7], [9.0]]).double().expand(2, 2, 400)
    expected = dsp.SweptFilter(response, [0.7, 9.0], sample_rate_hz=FS)(x, cutoff)
    y = follows(response)(x, cutoff, quality)
    torch.testing.assert_close(y, expected.detach(), rtol=0, atol=1e-6)


def test_a_quality_that_moves_is_that_of_each_sample() -> None:
    x, cutoff, quality = noise(1, 300), sweep(300), sweep(300, 0.3, 12.0).flip(-1)
    expected, (s1, s2) = [], (0.0, 0.0)
    for value, f, q in zip(x[0].tolist(), cutoff[0].tolist(), quality[0].tolist(), strict=True):
        g = np.tan(np.pi * f / FS)
        band, low = np.linalg.solve([[1 + g / q, g], [-g, 1.0]], [s1 + g * value, s2])
        s1, s2 = 2 * band - s1, 2 * low - s2
        expected.append(value - 2 * band / q)
    y = follows("allpass")(x, cutoff, quality)
    np.testing.assert_allclose(y[0], expected, rtol=1e-9, atol=1e-12)


def test_a_quality_beyond_its_bounds_is_held_and_has_no_gradient() -> None:
    x, cutoff = noise(1, 200), sweep(200)
    block = follows(low_q=0.5, high_q=4.0)
    for beyond, held in ((-1e9, 0.5), (0.0, 0.5), (3e9, 4.0)):
        quality = torch.full_like(x, beyond).requires_grad_()
        y = block(x, cutoff, quality)
        torch.testing.assert_close(y, block(x, cutoff, torch.full_like(x, held)), rtol=0, atol=0)
        assert not torch.autograd.grad(y.sum(), quality)[0].any()


def test_any_chunking_of_three_signals_equals_the_whole() -> None:
    signals = noise(3, 2, 90), sweep(90).expand(3, 1, 90), sweep(90, 0.5, 9.0).expand(3, 2, 90)
    block = follows("bandpass")
    parts = list(zip(*(s.split([1, 40, 49], -1) for s in signals), strict=True))
    with microddsp.streaming(block):
        streamed = torch.cat([block(*part) for part in parts], -1)
    torch.testing.assert_close(streamed, block(*signals), rtol=0, atol=0)


def test_gradients_to_three_signals_are_right() -> None:
    block = follows("notch")
    signals = noise(2, 2, 8), sweep(8).expand(2, 2, 8) / 100, 1.0 + noise(2, 2, 8, seed=4).square()
    values = [s.clone().requires_grad_() for s in signals]
    assert torch.autograd.gradcheck(lambda x, f, q: block(x, 100.0 * f, q), values)
    y = block(*values)
    assert y.grad_fn is not None and "_Recursion" in y.grad_fn.name()


def test_no_modulation_makes_it_unstable() -> None:
    x = noise(1, 20_000).sign()
    cutoff = torch.where(noise(1, 20_000, seed=1) > 0, 8.0, 3600.0).double()
    for response in RESPONSES:
        y = swept(response, 10.0)(x, cutoff).detach()
        assert float(y.abs().max()) < 40.0


def test_a_cut_off_beyond_its_bounds_is_held() -> None:
    x = noise(1, 200)
    block = swept(low_hz=50.0, high_hz=2000.0)
    for beyond, held in ((-1e9, 50.0), (3e9, 2000.0)):
        y, expected = (block(x, torch.full_like(x, f)) for f in (beyond, held))
        torch.testing.assert_close(y, expected, rtol=0, atol=0)


def test_any_chunking_equals_the_whole() -> None:
    x, cutoff = noise(3, 2, 90), sweep(90).expand(3, 1, 90)
    block = swept("notch")
    whole = block(x, cutoff).detach()
    with torch.no_grad(), microddsp.streaming(block):
        parts = zip(x.split([1, 40, 49], -1), cutoff.split([1, 40, 49], -1), strict=True)
        streamed = torch.cat([block(*part) for part in parts], -1)
    torch.testing.assert_close(streamed, whole, rtol=0, atol=0)
    outputs, state = [], None
    for part in zip(x.split(45, -1), cutoff.split(45, -1), strict=True):
        y, state = microddsp.step(block, part, state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, -1).detach(), whole, rtol=0, atol=0)
    torch.testing.assert_close(block(x[1], cutoff[1]).detach(), whole[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("response", RESPONSES)
def test_gradients_to_both_signals_and_the_quality_are_right(response: str) -> None:
    block = dsp.SweptFilter(response, [0.7, 3.0], sample_rate_hz=FS).double()

    def run(x: Tensor, cutoff: Tensor, raw: Tensor) -> Tensor:
        return torch.func.functional_call(block, {"quality.raw": raw}, (x, 100.0 * cutoff))

    raw = block.quality.raw.detach().clone().requires_grad_()
    x, cutoff = noise(2, 12).requires_grad_(), (sweep(12) / 100).requires_grad_()
    assert torch.autograd.gradcheck(run, (x, cutoff, raw))


def test_training_runs_in_a_compiled_kernel() -> None:
    x = noise(4, 2, 50).float()
    y = swept()(x, sweep(50).float())
    assert y.grad_fn is not None and "_Recursion" in y.grad_fn.name()


class Wobble(torch.nn.Module):
    """A low-pass whose cut-off an oscillator moves: all of it can be learned."""

    def __init__(self, centre: float, depth: float, rate_hz: float) -> None:
        super().__init__()
        self.rate = dsp.Oscillator(rate_hz, sample_rate_hz=FS)
        self.depth = dsp.Gain(depth)
        self.centre = dsp.Offset(centre)
        self.filter = swept()

    def forward(self, x: Tensor) -> Tensor:
        return self.filter(x, self.centre(self.depth(self.rate(0.0 * x))) * 1000.0)


def test_a_sweep_is_learned_from_what_it_did() -> None:
    x = noise(1, 2000)
    with torch.no_grad():
        target = Wobble(1.2, 0.5, 6.0)(x)
    learned = Wobble(0.8, 0.2, 5.5)
    optimiser = torch.optim.Adam(learned.parameters(), lr=0.02)
    for _ in range(200):
        optimiser.zero_grad()
        loss = (learned(x) - target).square().mean()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 1e-4 * float(target.square().mean())
    assert float(learned.rate.frequency_hz.detach()) == pytest.approx(6.0, abs=0.05)
    assert float(learned.depth.gain.detach()) == pytest.approx(0.5, abs=0.01)


class Driven(torch.nn.Module):
    """A band that follows the height of the signal, one that a second input moves, a wobble."""

    def __init__(self) -> None:
        super().__init__()
        self.height = dsp.Envelope(0.001, 0.02, sample_rate_hz=FS)
        self.wah = dsp.SweptFilter("bandpass", [2.0, 4.0], sample_rate_hz=FS)
        self.given = swept("highpass", 0.8)
        self.sharp = follows("bandpass", low_q=0.5)
        self.wobble = Wobble(0.6, 0.3, 11.0)

    def forward(self, x: Tensor, cutoff_hz: Tensor) -> dict[str, Tensor]:
        height = self.height(x)
        return {
            "wah": self.wah(x, 200.0 + 900.0 * height),
            "given": self.given(x, cutoff_hz),
            "sharp": self.sharp(x, cutoff_hz, 8.0 * height),
            "wobble": self.wobble(x),
        }


def inputs(samples: int) -> tuple[Tensor, Tensor]:
    return noise(2, samples).float(), sweep(samples).float()


def compare(got: dict[str, Tensor], *signals: Tensor) -> None:
    with torch.no_grad():
        expected = Driven()(*signals)
    for name, value in expected.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("block", [1, 16])
def test_it_compiles_with_what_drives_it(block: int) -> None:
    x, cutoff = inputs(320)
    model = microddsp.compile(
        Driven(), [x[:, :block], cutoff[:, :block]], target="host", name="driven"
    )
    compare(model.run(x, cutoff), x, cutoff)


@pytest.mark.qemu
def test_a_device_sweeps_the_same() -> None:
    x, cutoff = inputs(960)
    model = microddsp.compile(
        Driven(), [x[:, :32], cutoff[:, :32]], target="cortex-m4f", name="driven"
    )
    with microddsp.open_board("mps2-an386", model) as board:
        compare(board.run(x, cutoff), x, cutoff)


def test_a_low_cut_off_keeps_its_precision_in_float32() -> None:
    x, cutoff = noise(1, 40_000), sweep(40_000, 9.0, 40.0)
    block = swept()
    exact = block(x, cutoff).detach()
    single = block(x.float(), cutoff.float()).detach().double()
    assert float((single - exact).abs().max()) < 1e-5 * float(exact.abs().max())


def test_it_fades_in_the_time_that_it_tells() -> None:
    block = swept(q=0.8, low_hz=40.0)
    x = torch.zeros(1, block.settle_samples + 1).double()
    x[0, 0] = 1.0
    y = block(x, torch.full_like(x, 40.0)).detach()
    assert float(y[0, -1].abs()) < 0.05 * float(y.abs().max())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"response": "peaking"}, "unknown response"),
        ({"q": 0.0}, "q must be positive"),
        ({"low_hz": 0.0}, "must rise between"),
        ({"low_hz": 500.0, "high_hz": 400.0}, "must rise between"),
        ({"high_hz": 4000.0}, "must rise between"),
        ({"low_q": 0.0}, "must be positive and rise"),
        ({"q": None, "low_q": 3.0, "high_q": 2.0}, "must be positive and rise"),
        ({"high_hz": float("nan")}, "must rise between"),
    ],
)
def test_senseless_filters_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        swept(**arguments)


@pytest.mark.parametrize(
    "cutoff",
    [torch.zeros(1, 9).double(), torch.zeros(1, 8), torch.zeros(3, 8).double()],
)
def test_a_cut_off_that_does_not_fit_is_refused(cutoff: Tensor) -> None:
    with pytest.raises(SignalError, match="cutoff_hz"):
        swept()(noise(2, 8), cutoff)


@pytest.mark.parametrize("own", [True, False])
def test_a_quality_that_is_missing_or_not_asked_for_is_refused(own: bool) -> None:
    x = noise(2, 8)
    with pytest.raises(SignalError, match="quality factor of its own" if own else "needs the sig"):
        swept()(x, x, x) if own else follows()(x, x)
