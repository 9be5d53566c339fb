"""The memory report: never less stack than the device uses, whatever library code is called."""

from __future__ import annotations

import pytest
import torch

import microddsp
from microddsp import dsp
from microddsp.errors import BoardError
from microddsp.micro.package.stack import Function, deepest

BOARDS = {
    "cortex-m0": "microbit",
    "cortex-m3": "mps2-an385",
    "cortex-m4f": "mps2-an386",
    "cortex-m55": "mps3-an547",
}


class Waves(torch.nn.Module):
    """Calls the C library's deepest functions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) * torch.sin(x * 1e6) + torch.exp(x)


def filters() -> torch.nn.Module:
    return torch.nn.Sequential(
        dsp.Bandpass(40, 400, 2, sample_rate_hz=8000),
        dsp.Envelope(0.001, 0.05, sample_rate_hz=8000),
    )


@pytest.mark.parametrize("target", BOARDS)
@pytest.mark.parametrize("make", [filters, Waves])
def test_stack_is_never_more_than_reported(target: str, make: object) -> None:
    assert callable(make)
    model = microddsp.compile(make(), torch.zeros(1, 64), target=target, name="probe")
    memory = model.memory
    assert memory.outside == ()
    with microddsp.open_board(BOARDS[target], model) as session:
        session.run(torch.randn(1, 256))
        measured = session.stack_bytes()
    assert measured <= memory.stack_bytes <= measured + 600


def test_library_functions_are_part_of_the_deepest_path() -> None:
    graph = (
        'node: { title: "m.c:f" label: "f\\n16 bytes (static)" }\n'
        'edge: { sourcename: "m.c:f" targetname: "__aeabi_fadd" }\n'
        'edge: { sourcename: "m.c:f" targetname: "lost" }\n'
    )
    library = {
        "__aeabi_fadd": Function(24, {"inner", "__aeabi_fadd"}),
        "inner": Function(8),
    }
    assert deepest(graph, "f", library) == (48, ("lost",))
    assert deepest(graph, "f", {}) == (16, ("__aeabi_fadd", "lost"))


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = microddsp.compile(filters(), torch.zeros(1, 64), target="cortex-m4f", name="probe")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BoardError, match="gcc-arm-none-eabi"):
        _ = model.memory
