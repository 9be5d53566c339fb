"""The classic exercises: hidden parameters are found again, within 1 %, from signals alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR

from microddsp import dsp
from microddsp.training import (
    Batch,
    Readings,
    Row,
    compare,
    losses,
    random_inputs,
    spectral_losses,
    train,
    whole,
)

RATE = 8000.0
STEPS = 300
SLOWER = partial(ExponentialLR, gamma=0.03 ** (1 / STEPS))
Make = Callable[[], torch.nn.Module]


class Bias(torch.nn.Module):
    """A constant added to a signal: the user's own module."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor(bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.bias


EXERCISES: dict[str, tuple[Make, Make]] = {
    "gain": (lambda: dsp.Gain(0.5), lambda: dsp.Gain(2.0)),
    "gain and offset": (
        lambda: torch.nn.Sequential(dsp.Gain(-0.3), Bias(0.2)),
        lambda: torch.nn.Sequential(dsp.Gain(1.0), Bias(-1.0)),
    ),
    "one zero": (lambda: dsp.FIR([1.0, -0.8]), lambda: dsp.FIR([1.0, 0.1])),
    "biquad": (
        lambda: dsp.Biquad.lowpass(900.0, 3.0, sample_rate_hz=RATE),
        lambda: dsp.Biquad.lowpass(400.0, 0.7, sample_rate_hz=RATE),
    ),
    "band": (
        lambda: dsp.Bandpass(300.0, 800.0, sample_rate_hz=RATE),
        lambda: dsp.Bandpass(150.0, 1500.0, sample_rate_hz=RATE),
    ),
    "envelope": (
        lambda: dsp.Envelope(0.002, 0.03, sample_rate_hz=RATE),
        lambda: dsp.Envelope(0.01, 0.005, sample_rate_hz=RATE),
    ),
}


def learn(truth: torch.nn.Module, module: torch.nn.Module, loss: losses.Loss) -> tuple[Row, ...]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 1500, generator=generator)
    # loud and quiet parts: in steady noise attack and release can hardly be told apart
    x = x * torch.rand(1, 1, 10, generator=generator).repeat_interleave(150, -1) * 2
    with torch.no_grad():
        batch = Batch(x, truth(x))
    adam = partial(torch.optim.Adam, lr=0.1)
    return train(
        module, whole(batch), compare(loss), steps=STEPS, optimizer=adam, schedule=SLOWER
    ).history


def found(module: torch.nn.Module) -> dict[str, float]:
    return Readings(module).read()


@pytest.mark.parametrize("loss", [losses.l1, losses.l2], ids=["l1", "l2"])
@pytest.mark.parametrize("name", EXERCISES)
def test_hidden_parameters_are_found_again(name: str, loss: losses.Loss) -> None:
    truth, module = (make() for make in EXERCISES[name])
    learn(truth, module, loss)
    assert found(module) == pytest.approx(found(truth), rel=0.01)


def test_a_biquad_is_found_by_its_sound_alone() -> None:
    truth, module = (make() for make in EXERCISES["biquad"])
    loss = partial(spectral_losses.multi_resolution_spectral, sizes=(256, 1024))
    learn(truth, module, loss)
    assert found(module) == pytest.approx(found(truth), rel=0.01)


def test_a_biquad_is_found_from_noise_that_is_new_at_every_step() -> None:
    truth, module = (make() for make in EXERCISES["biquad"])
    adam = partial(torch.optim.Adam, lr=0.1)
    draw = random_inputs(truth, (2, 1, 600))
    train(module, draw, compare(losses.l1), steps=STEPS, optimizer=adam, schedule=SLOWER)
    assert found(module) == pytest.approx(found(truth), rel=0.01)


def test_what_is_not_to_be_learned_stays() -> None:
    truth = torch.nn.Sequential(dsp.Gain(2.0), dsp.Gain(3.0))
    module = torch.nn.Sequential(dsp.Gain(1.0), dsp.Gain(3.0))
    module[1].gain.requires_grad_(False)
    learn(truth, module, losses.l2)
    assert module[1].gain.item() == 3.0
    assert module[0].gain.item() == pytest.approx(2.0, rel=0.01)
