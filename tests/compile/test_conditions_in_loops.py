"""Conditions, bounds and extremes between filters stay in their loop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import microddsp
from microddsp import dsp

RATE = 8000.0


class Between(nn.Module):
    """A function between a filter and an envelope; `marks` leave the loop as they are."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.before = dsp.OnePole(900.0, sample_rate_hz=RATE)
        self.function = function
        self.after = dsp.Envelope(0.001, 0.01, sample_rate_hz=RATE)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.function(self.before(x)))


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "lower bound": lambda x: x.clamp(min=0.0),
    "upper bound": lambda x: x.clamp(max=0.1),
    "maximum": lambda x: torch.maximum(x, -0.5 * x),
    "minimum": lambda x: torch.minimum(x, 0.5 - x),
    "choice": lambda x: torch.where(x > 0.1, x, 0.25 * x),
    "of conditions": lambda x: torch.where((x > 0) & (x < 0.3) | (x <= -0.4), x, 2 * x),
    "counted conditions": lambda x: (x > 0.05).float() * 2 + (x < -0.1).float(),
}


def signal() -> Tensor:
    return torch.randn(2, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_stays_in_the_loop(name: str) -> None:
    module, x = Between(FUNCTIONS[name]), signal()
    model = microddsp.compile(module, x[:, :32], target="host", name="m")
    assert model.sources["m.c"].count("static void m_k") == 1
    got = np.concatenate([model.run(part) for part in x.split(32, -1)], -1)
    np.testing.assert_allclose(got, module(x).detach(), atol=1e-6)


def test_not_a_number_passes_a_bound() -> None:
    module = Limits()
    x = torch.tensor([[1.0, -1.0, 9.0, 0.3]])
    model = microddsp.compile(module, x, target="host", name="m")
    got = model.run(x)
    assert np.isnan(got).tolist() == [[False, True, False, False]]
    np.testing.assert_allclose(got, module(x).detach(), atol=1e-6)


class Limits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.filter = dsp.Gain(1.0)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.maximum(torch.log(self.filter(x)), torch.tensor(0.0))
        return torch.minimum(y, torch.tensor(1.5))


class Marks(nn.Module):
    """Truths inside and outside the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = dsp.OnePole(900.0, sample_rate_hz=RATE)
        self.level = dsp.Envelope(0.001, 0.01, sample_rate_hz=RATE)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.filter(x)
        loud = y > 0.2
        return torch.where(loud, y, 0.0 * y), loud, self.level(loud.any(0, keepdim=True).float())


def test_truths_leave_the_loop_as_truths() -> None:
    module, x = Marks(), signal()
    model = microddsp.compile(module, x, target="host", name="m")
    got, expected = model.run(x), module(x)
    assert np.asarray(got[1]).dtype == bool
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.asarray(one, "float32"), other.detach().float(), atol=1e-6)
