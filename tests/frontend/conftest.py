"""Many functions compiled as one model: a compilation each would take minutes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import microddsp

Function = Callable[[SimpleNamespace], Tensor]


class Together(nn.Module):
    """Each function of the inputs is an output of its name."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        super().__init__()
        self.functions = dict(functions)

    def forward(self, x: Tensor, y: Tensor, i: Tensor, j: Tensor, b: Tensor) -> dict[str, Tensor]:
        given = SimpleNamespace(x=x, y=y, i=i, j=j, b=b)
        return {name: function(given) for name, function in self.functions.items()}


class Joined(nn.Module):
    """All of `Together` in two outputs, fractions and whole numbers: a call has few arguments."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        super().__init__()
        self.together = Together(functions)

    def forward(self, x: Tensor, y: Tensor, i: Tensor, j: Tensor, b: Tensor) -> dict[str, Tensor]:
        values = [v.flatten() for v in self.together(x, y, i, j, b).values()]
        return {
            "fractions": torch.cat([v for v in values if v.is_floating_point()]),
            "whole": torch.cat([v.long() for v in values if not v.is_floating_point()]),
        }


class Case:
    """What torch and the compiled model make of the same inputs."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        g = torch.Generator().manual_seed(0)
        x, y = (torch.randn(3, 8, generator=g) for _ in range(2))
        whole, more = (torch.randint(-99, 99, (3, 8), generator=g) for _ in range(2))
        self.inputs = (x, y, whole.int(), more.int(), whole.to(torch.int8))
        self.module = Together(functions)
        self.joined = Joined(functions)
        self.expected = self.module(*(v.clone() for v in self.inputs))

    def on_host(self) -> Mapping[str, Tensor]:
        model = microddsp.compile(self.module, self.inputs, target="host", name="m")
        return model.run(*self.inputs)

    def check_on_device(self) -> None:
        model = microddsp.compile(self.joined, self.inputs, target="cortex-m4f", name="m")
        with microddsp.open_board("mps2-an386", model) as board:
            got = board.run(*self.inputs)
        want = self.joined(*self.inputs)
        torch.testing.assert_close(
            got["fractions"], want["fractions"], rtol=1e-5, atol=1e-6, equal_nan=True
        )
        assert torch.equal(got["whole"], want["whole"])

    def check(self, name: str, got: Tensor) -> None:
        want = self.expected[name]
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.fixture(scope="module")
def together() -> Callable[[Mapping[str, Function]], Case]:
    return Case
