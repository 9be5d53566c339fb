"""Kernels that are no sample loops: sums stay in registers, dear functions are called once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import microddsp
from microddsp import dsp
from microddsp.schedules import kernels


class Frame(nn.Module):
    """A function of one frame and layers."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


def layers(*made: nn.Module) -> nn.Module:
    return Frame(lambda x, *ms: nn.Sequential(*ms)(x), *made)


FRAMES = {
    "two products and a rectifier": layers(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4)),
    "no bias": layers(nn.Linear(24, 13, bias=False)),
    "prime numbers of sums and terms": layers(nn.Linear(24, 37), nn.Tanh(), nn.Linear(37, 11)),
    "one sum": layers(nn.Linear(24, 1)),
    "softmax": layers(nn.Linear(24, 10), nn.Softmax(-1)),
    "layer norm": layers(nn.Linear(24, 12), nn.LayerNorm(12)),
    "rows by columns": Frame(lambda x: x.reshape(4, 6) @ x.reshape(6, 4)),
    "three axes": Frame(lambda x: x.reshape(2, 3, 4) @ x.reshape(2, 4, 3)),
    "sum over two axes": Frame(lambda x: (x.reshape(2, 3, 4) ** 2).sum((0, 2))),
    "mean and spread": Frame(lambda x: torch.stack([x.mean(), x.std()])),
    "both sides of a product": Frame(lambda x, a: a(x) * torch.sigmoid(a(x)), nn.Linear(24, 8)),
    "sums that are needed twice": Frame(
        lambda x, a: torch.cat([a(x), torch.relu(a(x))], -1), nn.Linear(24, 8)
    ),
    "integers": Frame(lambda x: (x * 8).int().reshape(4, 6).sum(1).float()),
    "place of the largest": Frame(lambda x: x.reshape(4, 6).argmax(1).float()),
}


@pytest.mark.parametrize("name", FRAMES)
def test_equals_torch_and_the_plain_loops(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile changes where sums are kept, not one of their bits."""
    torch.manual_seed(0)
    module, x = FRAMES[name], torch.randn(1, 24)
    tiles = on_host(module, x)
    torch.testing.assert_close(tiles, module(x).detach().reshape(tiles.shape), rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(kernels, "tiled", lambda schedule, block, factors: None)
    assert torch.equal(tiles, on_host(module, x))


def on_host(module: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = microddsp.compile(module, x, target="host", name="net").run(x)
    return y


def calls(module: nn.Module, x: Tensor, function: str) -> int:
    model = microddsp.compile(module, x, target="cortex-m4f", name="net")
    return model.sources["net.c"].count(f"{function}(")


def test_a_dear_function_is_called_once_for_a_value() -> None:
    x = torch.zeros(1, 16)
    shared = Frame(lambda x: (t := torch.tanh(x)) * (2.0 - t) + t.reshape(4, 4).sum())
    assert calls(shared, x, "tanhf") == 1
    product = Frame(lambda x, a: a(torch.exp(x)), nn.Linear(16, 8))
    assert calls(product, x, "expf") == 1
    assert calls(dsp.GRU(1, 4), x, "expf") == 2
    assert calls(dsp.GRU(1, 4), x, "tanhf") == 1


@pytest.mark.qemu
def test_products_of_a_net_take_few_instructions() -> None:
    """Two instructions for each product, and what starts, ends and stores tiles: 5272 measured.

    Sums in memory took 15872 for the 2176 products.
    """
    torch.manual_seed(0)
    module = layers(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    x = torch.randn(1, 64)
    model = microddsp.compile(module, x, target="cortex-m4f", name="net")
    assert model.memory.arena_bytes <= 4 * 32
    microddsp.verify(module, model, x, board="mps2-an386")
    with microddsp.open_board("mps2-an386", model) as board:
        assert board.time(x).instructions_per_sample * 64 < 5500
