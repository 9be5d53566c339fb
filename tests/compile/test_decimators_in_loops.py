"""A decimator keeps samples of the loop before it: no signal at the full rate is stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import microddsp
from microddsp import dsp

RATE = 8000.0


def decimated(factor: int) -> nn.Sequential:
    return nn.Sequential(
        dsp.OnePole(300.0, sample_rate_hz=RATE),
        dsp.Decimate(factor),
        dsp.Envelope(0.01, 0.1, sample_rate_hz=RATE / factor),
    )


def streamed(module: nn.Module, x: Tensor, block: int) -> None:
    """The compiled model against torch, block by block."""
    model = microddsp.compile(module, x[:, :block], target="host", name="m")
    with torch.no_grad(), microddsp.streaming(module):
        for part in x.split(block, -1):
            for got, expected in zip(
                as_tuple(model.run(part)), as_tuple(module(part)), strict=True
            ):
                np.testing.assert_allclose(got, expected, atol=1e-6)
    microddsp.reset(module)


def as_tuple(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize(
    ("factor", "blocks"),
    [(1, (1, 9)), (2, (2, 22)), (3, (3, 9, 48)), (4, (8, 20)), (5, (10, 40)), (16, (16, 48))],
)
def test_any_factor_and_block(factor: int, blocks: tuple[int, ...]) -> None:
    for block in blocks:
        x = torch.randn(2, 4 * block, generator=torch.Generator().manual_seed(block))
        streamed(decimated(factor), x, block)


class Branches(nn.Module):
    """Two factors of one signal, which also goes on at the full rate; and one value of a block
    meets all of its samples again."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = dsp.OnePole(300.0, sample_rate_hz=RATE)
        self.fast, self.slow = dsp.Decimate(2), dsp.Decimate(3)
        self.first = dsp.Decimate(12)
        self.level = dsp.Envelope(0.01, 0.1, sample_rate_hz=RATE)
        self.after = dsp.OnePole(100.0, sample_rate_hz=RATE / 2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.filter(x)
        whole = y * self.first(y)
        return self.level(y), self.after(self.fast(y)), self.slow(y.abs()), whole


def test_branches() -> None:
    x = torch.randn(1, 48, generator=torch.Generator().manual_seed(0))
    streamed(Branches(), x, 12)


def test_memory_is_that_of_the_low_rate() -> None:
    model = microddsp.compile(decimated(16), torch.zeros(1, 256), target="cortex-m4f", name="m")
    assert model.memory.arena_bytes <= 16 * 4
    with microddsp.open_board("mps2-an386", model) as board:
        x = torch.randn(1, 512, generator=torch.Generator().manual_seed(1))
        np.testing.assert_allclose(board.run(x), decimated(16)(x).detach(), atol=1e-6)
