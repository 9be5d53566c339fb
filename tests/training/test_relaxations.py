"""The number of filters and the sample rate, learned with a cost and then made use of."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

import microddsp
from microddsp import dsp
from microddsp.errors import ParameterError
from microddsp.training import Batch, losses, relaxations, train, whole
from microddsp.training.relaxations import BandLimit, GatedSum, prune
from microddsp.training.sample_rate import lower_rate

RATE = 8000.0
CENTRES = (150.0, 300.0, 600.0, 1200.0, 2000.0, 3000.0)


def band(centre_hz: float) -> torch.nn.Module:
    filter = dsp.Biquad.bandpass(centre_hz, 2.0, sample_rate_hz=RATE)
    return filter.requires_grad_(False)


def noise(samples: int = 2000) -> torch.Tensor:
    return torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(0))


def learn(module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, weight: float) -> None:
    def objective(module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return losses.l2(module(batch.signals), batch.targets) + weight * relaxations.cost(module)

    adam = partial(torch.optim.Adam, lr=0.1)
    train(module, whole(Batch(x, y)), objective, steps=250, optimizer=adam)


@pytest.fixture(scope="module")
def filterbank() -> GatedSum:
    """Six filters that learn to be two."""
    x = noise()
    with torch.no_grad():
        y = 0.8 * band(300.0)(x) + 0.6 * band(1200.0)(x)
    module = GatedSum([band(hz) for hz in CENTRES])
    learn(module, x, y, 0.002)
    return module


def test_gates_close_on_filters_that_are_not_needed(filterbank: GatedSum) -> None:
    gates = filterbank.gates.tolist()
    assert [gate > 0 for gate in gates] == [False, True, False, True, False, False]
    assert gates[1] == pytest.approx(0.8, abs=0.05) and gates[3] == pytest.approx(0.6, abs=0.05)


def test_pruning_changes_nothing_but_the_size_of_the_c(filterbank: GatedSum) -> None:
    pruned = prune(filterbank)
    x = noise(256)[0]
    with torch.no_grad():
        torch.testing.assert_close(pruned(x), filterbank(x))
    assert len(list(filterbank.branches)) == 6  # the original stays
    example = torch.zeros(1, 64)
    large, small = (
        microddsp.compile(module.eval(), example, target="cortex-m4f", name="bank")
        for module in (filterbank, pruned)
    )
    assert small.memory.to_json()["flash_bytes"] < 0.7 * large.memory.to_json()["flash_bytes"]
    assert small.memory.to_json()["state_bytes"] < 0.5 * large.memory.to_json()["state_bytes"]
    with torch.no_grad():
        np.testing.assert_allclose(small.run(x.numpy()), pruned(x).numpy(), atol=1e-5)


def test_pruning_finds_gates_inside_a_pipeline() -> None:
    bank = GatedSum([band(hz) for hz in CENTRES[:3]])
    pipeline = torch.nn.Sequential(dsp.Gain(2.0), torch.nn.Sequential(bank))
    with torch.no_grad():
        bank.raw.copy_(torch.tensor([-9.0, 9.0, 0.0]))
    pruned = prune(pipeline)
    x = noise(100)
    torch.testing.assert_close(pruned(x), pipeline(x))
    assert type(pruned[1][0]).__name__ == "Sum"
    with torch.no_grad():
        bank.raw.copy_(torch.tensor([-9.0, 9.0, -9.0]))
    assert isinstance(prune(pipeline)[1][0], dsp.Biquad)  # one open gate is no gate
    with torch.no_grad():
        bank.raw.fill_(-9.0)
    with pytest.raises(ParameterError, match="1.0: all gates are closed"):
        prune(pipeline)


def limited() -> torch.nn.Sequential:
    return torch.nn.Sequential(
        BandLimit(3000.0, 4, sample_rate_hz=RATE),
        band(220.0),
        dsp.Envelope(0.002, 0.02, sample_rate_hz=RATE).requires_grad_(False),
    )


@pytest.fixture(scope="module")
def narrow() -> torch.nn.Sequential:
    """A pipeline that needs 220 Hz, and finds that out."""
    x, module = noise(), limited()
    with torch.no_grad():
        y = module[2](module[1](x))
    learn(module, x, y, 0.01)
    return module


def test_a_band_limit_comes_down_to_what_is_needed(narrow: torch.nn.Sequential) -> None:
    assert 250.0 < narrow[0].cutoff_hz.item() < 1200.0


def test_a_lower_rate_gives_the_same_signal_with_less_work(narrow: torch.nn.Sequential) -> None:
    lowered = lower_rate(narrow)
    factor = lowered[0][1].factor
    assert factor >= 2
    assert lowered[1].f0_hz.item() == pytest.approx(220.0, rel=1e-5)
    assert lowered[1].sample_rate_hz == RATE / factor
    x = torch.sin(2 * torch.pi * 220 * torch.arange(4000) / RATE)[None]
    with torch.no_grad():
        expected, found = narrow(x)[..., ::factor], lowered(x)
    late = expected.shape[-1] // 2  # start-up differs by the phase of the bilinear transform
    assert (found - expected)[..., late:].abs().max() < 0.05 * expected.abs().max()
    assert narrow[1].sample_rate_hz == RATE  # the original stays
    samples = 64 * factor
    model = microddsp.compile(
        lowered.eval(), torch.zeros(1, samples), target="cortex-m4f", name="l"
    )
    block = x[:, : 3 * samples]
    with torch.no_grad():
        np.testing.assert_allclose(model.run(block.numpy()), lowered(block).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "part",
    [
        lambda: dsp.Bandpass([100.0, 200.0], [300.0, 500.0], 2, sample_rate_hz=RATE),
        lambda: dsp.Highpass(100.0, 3, sample_rate_hz=RATE),
        lambda: dsp.Bandstop(100.0, 300.0, 2, sample_rate_hz=RATE),
        lambda: dsp.OnePole(100.0, sample_rate_hz=RATE),
        lambda: dsp.DCBlocker(5.0, sample_rate_hz=RATE),
        lambda: dsp.SVF("lowpass", 100.0, 2.0, RATE),
        lambda: torch.nn.Sequential(dsp.Gain(2.0), dsp.Lowpass(100.0, sample_rate_hz=RATE)),
    ],
)
def test_hertz_stay_hertz_at_a_lower_rate(part) -> None:
    from microddsp.training import Readings

    pipeline = torch.nn.Sequential(BandLimit(600.0, sample_rate_hz=RATE), part())
    lowered = lower_rate(pipeline)
    assert lowered[0][1].factor == 4
    before, after = Readings(pipeline[1]).read(), Readings(lowered[1]).read()
    assert after == pytest.approx(before, rel=1e-5)
    for inner in lowered[1].modules():
        assert getattr(inner, "sample_rate_hz", None) in (None, RATE / 4)


def test_events_are_counted_alike_at_a_lower_rate() -> None:
    t = torch.arange(16000) / RATE
    x = (torch.sin(2 * torch.pi * 220 * t) * ((t * 5) % 1 < 0.3))[None]
    pipeline = torch.nn.Sequential(
        BandLimit(500.0, 4, sample_rate_hz=RATE),
        dsp.Envelope(0.002, 0.02, sample_rate_hz=RATE),
        dsp.EventCounter(0.4, refractory_s=0.05, sample_rate_hz=RATE),
    )
    lowered = lower_rate(pipeline)
    assert pipeline(x).item() == lowered(x).item() == 10.0
    with pipeline[2].density(), lowered[2].density():
        assert lowered(x).item() == pytest.approx(pipeline(x).item(), rel=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GatedSum([]), "one or more"),
        (lambda: GatedSum([band(100.0)], start=1.0), "start"),
        (lambda: relaxations.cost(dsp.Gain()), "nothing has a cost"),
        (lambda: lower_rate(torch.nn.Sequential(dsp.Gain())), "found 0"),
        (lambda: lower_rate(limited(), guard=0.5), "guard"),
        (lambda: lower_rate(limited(), block=0), "block"),
        (
            lambda: lower_rate(
                torch.nn.Sequential(BandLimit(300.0, sample_rate_hz=RATE), band(900.0))
            ),
            "1.frequency: 900 Hz is above half",
        ),
        (
            lambda: lower_rate(
                torch.nn.Sequential(BandLimit(300.0, sample_rate_hz=RATE), dsp.FIR([1.0, 2.0]))
            ),
            "1: FIR has parameters in samples",
        ),
    ],
)
def test_what_cannot_be_relaxed_is_refused(make, message) -> None:
    with pytest.raises(ParameterError, match=message):
        make()


def test_a_limit_that_stayed_high_needs_no_decimation() -> None:
    pipeline = torch.nn.Sequential(BandLimit(3000.0, sample_rate_hz=RATE), band(900.0))
    lowered = lower_rate(pipeline)
    assert type(lowered[0]) is dsp.Lowpass and lowered[1].sample_rate_hz == RATE


def test_a_band_limit_without_its_cost_is_the_same_filter_to_the_last_bit() -> None:
    limit = BandLimit([300.0, 9.0], 3, sample_rate_hz=RATE, initial="first_sample").eval()
    limit.cutoff.requires_grad_(False)
    plain = limit.lowpass()
    assert type(plain) is dsp.Lowpass and not plain.training
    assert plain.extra_repr() == limit.extra_repr()
    assert not plain.cutoff.raw.requires_grad
    x = noise(200)[0].expand(2, -1)
    assert torch.equal(plain(x), limit(x))


def test_the_factor_divides_the_block_of_the_device() -> None:
    pipeline = torch.nn.Sequential(BandLimit(350.0, sample_rate_hz=RATE))
    assert lower_rate(pipeline)[0][1].factor == 7
    assert lower_rate(pipeline, block=64)[0][1].factor == 4
    assert lower_rate(pipeline, block=35)[0][1].factor == 7
    assert type(lower_rate(pipeline, block=11)[0]) is dsp.Lowpass
