"""Convolutions and what they take along: every shape of tile, and users that must not be taken."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import microddsp
from microddsp import dsp


class Call(nn.Module):
    """A function of a signal and layers."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


def relu_mean(x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
    return torch.relu(second(torch.relu(first(x)))).mean(-1)


def both(x: Tensor, first: nn.Module, second: nn.Module) -> dict[str, Tensor]:
    hidden = torch.relu(first(x))
    return {"hidden": hidden, "out": second(hidden)}


FRAMES = {
    "padded": nn.Conv1d(2, 8, 5, padding=2),
    "odd rows and a tail": nn.Conv1d(2, 3, 4),
    "no bias": nn.Conv1d(2, 4, 3, bias=False, padding="same"),
    "even kernel, one side more": nn.Conv1d(2, 4, 4, padding="same"),
    "stride": nn.Conv1d(2, 4, 5, stride=3, padding=1),
    "dilation": nn.Conv1d(2, 4, 3, dilation=2),
    "groups": nn.Conv1d(2, 6, 3, groups=2, padding=1),
    "depthwise": nn.Conv1d(2, 2, 5, groups=2, padding=2),
    "many taps": nn.Conv1d(2, 2, 17),
    "pointwise": nn.Conv1d(2, 5, 1),
    "as long as the frame": nn.Conv1d(2, 3, 37),
    "chain": Call(relu_mean, nn.Conv1d(2, 4, 5, padding=2), nn.Conv1d(4, 6, 3, padding=1)),
    "chain of unequal padding": Call(
        relu_mean, nn.Conv1d(2, 3, 3, padding=4), nn.Conv1d(3, 2, 4, padding=1, stride=2)
    ),
    "hidden value is an output": Call(
        both, nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(4, 2, 3, padding=1)
    ),
    "rectified twice": Call(lambda x, c: torch.relu(torch.relu(c(x)) - 0.1), nn.Conv1d(2, 4, 3)),
    "bias of another shape": Call(lambda x, c: c(x) + torch.arange(35.0), nn.Conv1d(2, 4, 3)),
    "mean over channels": Call(lambda x, c: torch.relu(c(x)).mean(0), nn.Conv1d(2, 4, 3)),
    "mean that keeps its axis": Call(
        lambda x, c: torch.relu(c(x)).mean(-1, keepdim=True), nn.Conv1d(2, 4, 3)
    ),
    "read by two": Call(lambda x, c: torch.relu(c(x)) + torch.tanh(c(x)), nn.Conv1d(2, 4, 3)),
    "normalised": Call(
        lambda x, c, n: torch.relu(n(c(x)[None])[0]),
        nn.Conv1d(2, 4, 3),
        nn.BatchNorm1d(4).train(False),
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_is_as_in_torch(name: str) -> None:
    torch.manual_seed(0)
    module = FRAMES[name].eval()
    x = torch.randn(2, 37)
    model = microddsp.compile(module, x, target="host", name="m")
    with torch.no_grad():
        expected = module(x)
    found = model.run(x)
    if not isinstance(expected, dict):
        expected, found = {"out": expected}, {"out": found}
    for key, value in expected.items():
        torch.testing.assert_close(found[key].reshape(value.shape), value, rtol=1e-5, atol=1e-5)


# Two convolutions stage by stage: their padding, steps and groups, and a length of the frame.
PAIRS = {
    "a mean, whole stages": (
        Call(relu_mean, nn.Conv1d(1, 4, 5, padding=2), nn.Conv1d(4, 4, 5, padding=2)),
        64,
    ),
    "tails of both": (nn.Sequential(nn.Conv1d(1, 3, 4), nn.ReLU(), nn.Conv1d(3, 3, 3)), 61),
    "steps, groups, far taps": (
        nn.Sequential(
            nn.Conv1d(1, 4, 3, stride=2, padding=5), nn.Conv1d(4, 2, 3, dilation=3, groups=2)
        ),
        90,
    ),
    "more padding than taps": (
        nn.Sequential(nn.Conv1d(1, 2, 1), nn.Conv1d(2, 4, 2, padding=9), nn.ReLU()),
        49,
    ),
    "a third one": (
        nn.Sequential(*(nn.Conv1d(1 if i == 0 else 2, 2, 3, padding=1) for i in range(3))),
        50,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_lies_between_two_convolutions_is_never_whole(name: str) -> None:
    torch.manual_seed(2)
    module, length = PAIRS[name]
    module = module.eval()
    x = torch.randn(1, length)
    model = microddsp.compile(module, x, target="host", name="m")
    layers = sum(isinstance(layer, nn.Conv1d) for layer in module.modules())
    kernels = re.findall(r"^static void m_k\d+_convolution", model.sources["m.c"], re.MULTILINE)
    assert len(kernels) == layers - 1
    with torch.no_grad():
        torch.testing.assert_close(model.run(x), module(x), rtol=1e-5, atol=1e-5)


def test_nan_and_negative_infinity_pass_as_in_torch() -> None:
    module = Call(lambda x, c: torch.relu(c(x / (x + 1))), nn.Conv1d(1, 1, 1, bias=False))
    with torch.no_grad():
        module.layers[0].weight.fill_(1.0)
    x = torch.tensor([[-1.0, 0.0, 1.0]])
    model = microddsp.compile(module, x, target="host", name="m")
    assert torch.equal(model.run(x), torch.relu(x / (x + 1)).detach())


def test_a_rectifier_between_two_convolutions_hides_no_overflow() -> None:
    module = Call(relu_mean, nn.Conv1d(1, 2, 1, bias=False), nn.Conv1d(2, 1, 1, bias=False))
    with torch.no_grad():
        for layer in module.layers:
            layer.weight.fill_(2.0)
    model = microddsp.compile(module, torch.zeros(1, 64), target="host", name="m")
    x = torch.linspace(-1e37, 1e36, 64)[None]
    torch.testing.assert_close(model.run(x), module(x).detach(), rtol=1e-6, atol=0.0)
    x[0, 30] = 3e38
    assert torch.isposinf(model.run(x)).all()
    x[0, 30] = -3e38  # torch has zero after that overflow
    assert torch.isnan(model.run(x)).all()


def test_a_chain_writes_no_intermediate_twice() -> None:
    module = FRAMES["chain"].eval()
    model = microddsp.compile(module, torch.zeros(2, 37), target="cortex-m4f", name="m")
    # the padded input, four padded rows, six means; nothing for bias, rectifier or padding
    assert model.memory.arena_bytes <= 4 * (2 * 41 + 4 * 39) + 64


@pytest.mark.qemu
def test_the_device_agrees() -> None:
    torch.manual_seed(1)
    module = nn.Sequential(
        dsp.CausalConv1d(1, 4, 5), nn.ReLU(), dsp.CausalConv1d(4, 3, 3, stride=2)
    )
    model = microddsp.compile(module, torch.zeros(1, 32), target="cortex-m4f", name="m")
    microddsp.verify(module, model, torch.randn(1, 32 * 4), board="mps2-an386")
