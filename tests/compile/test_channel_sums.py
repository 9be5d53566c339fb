"""Sums of channels and convolutions of one tap are part of the loop over samples."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

import microddsp
from microddsp import dsp

BLOCK = 48


def levels() -> dsp.Envelope:
    return dsp.Envelope(attack_s=0.002, release_s=0.05, sample_rate_hz=8000)


class Call(nn.Module):
    """A function of a signal and of an envelope of four channels."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.levels = levels()

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        return self.function(self.levels(x.abs()))


def both(y: Tensor) -> dict[str, Tensor]:
    return {"levels": y, "sum": y.sum(-2, keepdim=True)}


WEIGHTS = torch.tensor([[0.25], [-0.5], [2.0], [1.0]])
FROM_FOUR = {
    "sum": Call(lambda y: y.sum(-2, keepdim=True)),
    "weighted": Call(lambda y: (y * WEIGHTS).sum(0, keepdim=True) + 0.5),
    "the signal is an output too": Call(both),
    "two sums": Call(lambda y: y.sum(0, keepdim=True) * (y * y).sum(0, keepdim=True)),
    "without its axis": Call(lambda y: y.sum(-2)),
    "mixed to one": nn.Sequential(levels(), dsp.Mix(WEIGHTS.T)),
    "mixed to two": nn.Sequential(levels(), dsp.Mix(torch.ones(2, 4))),
    "with a bias": nn.Sequential(levels(), dsp.CausalConv1d(4, 1, 1), levels()),
}


@pytest.mark.parametrize("name", FROM_FOUR)
def test_sums_are_as_in_torch(name: str) -> None:
    torch.manual_seed(3)
    module, x = FROM_FOUR[name], torch.randn(4, 3 * BLOCK)
    model = microddsp.compile(module, x[:, :BLOCK], target="host", name="m")
    assert microddsp.verify(module, model, x).passed


def counter() -> nn.Module:
    return nn.Sequential(
        dsp.Mix([[1.0], [1.0], [0.5]]),
        dsp.Bandpass(low_hz=90.0, high_hz=700.0, order=4, sample_rate_hz=8000),
        levels(),
        dsp.Mix([[0.2, 0.3, 0.5]]),
        dsp.EventCounter(threshold=0.1, hysteresis=0.5, refractory_s=0.15, sample_rate_hz=8000),
    )


@pytest.mark.qemu
def test_three_bands_need_the_memory_of_one() -> None:
    torch.manual_seed(4)
    module, x = counter(), torch.randn(1, 40 * BLOCK)
    model = microddsp.compile(module, x[:, :BLOCK], target="cortex-m4f", name="m")
    assert model.memory.arena_bytes == 4 * BLOCK
    kernels = re.findall(r"^static void m_k\d+_(\w+)\(", model.sources["m.c"], re.MULTILINE)
    assert kernels == ["sample_loop0", "sample_loop1"]
    assert microddsp.verify(module, model, x, board="mps2-an386").passed
