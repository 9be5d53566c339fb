"""Recursions written as Python steps, as loops of the device."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

import microddsp
from microddsp import dsp
from microddsp.errors import CompileError
from microddsp.micro.package.model import CompiledModel


def signal(samples: int) -> Tensor:
    return torch.randn(2, samples, generator=torch.Generator().manual_seed(0))


def schmitt(x: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
    on = torch.where(x > 0.5, 1.0, torch.where(x < -0.5, 0.0, on))
    return on, on


def oscillator(x: Tensor, phase: Tensor, increment: Tensor) -> tuple[Tensor, Tensor]:
    phase = (phase + increment + 0.01 * x) % 1.0
    return torch.sin(2 * torch.pi * phase), phase


def string(x: Tensor, state: dict[str, Tensor], loss: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Of every channel; the line is read at its end, and a value of long ago is kept besides."""
    line, echo = state["line"], state["echo"]
    y = x + loss * 0.5 * (line[:, -1] + line[:, -2])
    after = {
        "line": torch.cat([y[:, None], line[:, :-1]], -1),
        "echo": torch.cat([echo[:, 1:], x[:, None]], -1),
    }
    return y + 0.25 * echo[:, 0], after


def everything(x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Operators without a formula, and states that change places."""
    a, b = state["a"], state["b"]
    y = torch.cumsum(torch.sort(torch.cat([x, a[:1]])).values, 0)[:2] * 0.4
    return y + torch.atan2(x, 1 + b[:2].abs()), {"a": 0.5 * b, "b": torch.flip(a, [0])}


def cross(x: Tensor, z: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel hears the other's past."""
    left, right = x[0] + gain * z[1] * x[1], x[1] - gain * torch.tanh(z[0])
    return torch.stack([left, right]), torch.stack([left, 0.5 * right])


def middle(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    y = x.sum(0, keepdim=True) - 0.3 * z
    return y, y


class Meeting(nn.Module):
    """Channels meet between filters, and again; what comes out is thinned."""

    def __init__(self) -> None:
        super().__init__()
        self.before = dsp.Lowpass(200.0, sample_rate_hz=1000.0)
        self.cross = dsp.Recurrence(cross, 0.2, parameters={"gain": 0.4})
        self.after = dsp.Envelope(0.01, 0.02, sample_rate_hz=1000.0)
        self.middle = dsp.Recurrence(middle, torch.ones(1))
        self.last = dsp.OnePole(20.0, sample_rate_hz=1000.0)
        self.delay = dsp.SweptDelay(0.02, sample_rate_hz=1000.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        crossed = self.cross(y)
        z = self.last(self.middle(self.after(crossed) + y))
        return torch.cat([z, self.delay(z, 0.01 * y[:1].abs()), crossed], 0)


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.cell = nn.GRUCell(2, 5)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cell(x, h)
        return h, h


class Together(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.parts = nn.ModuleDict(
            {
                "schmitt": nn.Sequential(dsp.Gain(0.8), dsp.Recurrence(schmitt)),
                "oscillator": dsp.Recurrence(
                    oscillator, torch.tensor([0.1, 0.7]), parameters={"increment": 0.013}
                ),
                "string": dsp.Recurrence(
                    string,
                    {"line": torch.linspace(0, 1, 42).reshape(2, 21), "echo": torch.ones(2, 9)},
                    parameters={"loss": 0.98},
                ),
                "everything": dsp.Recurrence(
                    everything, {"a": torch.zeros(3), "b": torch.tensor([0.1, 0.2, -0.3])}
                ),
                "meeting": Meeting(),
                "cell": dsp.Recurrence(Cell(), torch.zeros(5)),
                "gru": nn.Sequential(dsp.GRU(2, 4, num_layers=2), dsp.GRU(4, 3, bias=False)),
            }
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: part(x) for name, part in self.parts.items()}


def same(got: object, expected: Tensor) -> None:
    np.testing.assert_allclose(np.asarray(got), expected.numpy(), rtol=0, atol=2e-6)


def test_any_block_length_on_the_host() -> None:
    module = Together().eval()
    x = signal(96)
    with torch.no_grad():
        expected = module(x)
    for block in (1, 8, 32):  # shorter and longer than the delay lines
        model = microddsp.compile(module, x[:, :block], target="host", name="m")
        for twice in range(2):
            got = [model.run(part) for part in x.split(block, -1)]
            for name, value in expected.items():
                same(np.concatenate([one[name] for one in got], -1), value)
            if not twice:
                model.reset()


@pytest.fixture(scope="module")
def device_model() -> CompiledModel:
    return microddsp.compile(Together().eval(), signal(24), target="cortex-m4f", name="m")


def test_on_a_device(device_model: CompiledModel) -> None:
    x = signal(72)
    with torch.no_grad():
        expected = Together().eval()(x)
    with microddsp.open_board("mps2-an386", device_model) as board:
        got = board.run(x)
    for name, value in expected.items():
        same(got[name], value)


@pytest.mark.parametrize(
    ("block", "most"),
    [
        (dsp.Recurrence(schmitt), 11),  # instructions per sample
        (dsp.Recurrence(string, {"line": torch.zeros(1, 400), "echo": torch.zeros(1, 300)},
                        parameters={"loss": 0.9}), 90),
    ],
    ids=["formula", "delay lines"],
)  # fmt: skip
def test_a_loop_without_copies(block: nn.Module, most: float) -> None:
    """A line is not moved for every sample: that would be thousands of instructions."""
    x = signal(64)[:1]
    model = microddsp.compile(block, x, target="cortex-m4f", name="m")
    with microddsp.open_board("mps2-an386", model) as board:
        assert board.time(x).instructions_per_sample <= most


def test_a_filter_and_a_formula_share_a_loop() -> None:
    pipeline = nn.Sequential(
        dsp.Lowpass(50.0, sample_rate_hz=1000.0), dsp.Recurrence(schmitt), dsp.Gain(2.0)
    )
    model = microddsp.compile(pipeline, torch.zeros(1, 32), target="cortex-m4f", name="m")
    assert model.sources["m.c"].count("static void m_k") == 1


def test_channels_that_meet_are_a_loop_between_loops() -> None:
    model = microddsp.compile(Meeting(), torch.zeros(2, 16), target="cortex-m4f", name="m")
    source = model.sources["m.c"]
    assert source.count("_sample_loop") == 2 * 4 and "scan" not in source


@pytest.mark.parametrize(
    "block",
    [
        dsp.Recurrence(oscillator, parameters={"increment": 0.1}),
        dsp.Recurrence(cross, torch.zeros(2), parameters={"gain": 0.4}),
    ],
    ids=["each channel", "together"],
)
def test_an_exported_program_carries_its_recursion(block: nn.Module) -> None:
    x = signal(16)
    file = io.BytesIO()
    torch.export.save(torch.export.export(block, (x,), strict=False), file)
    file.seek(0)
    again = torch.export.load(file).module()
    torch.testing.assert_close(again(x), block(x))


def smooth(level: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
    level = 0.9 * level + torch.atan(sample)
    return level, level * 2


class OwnScan(nn.Module):
    """A user's own call of torch's scan, continued in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        level, y = scan(smooth, self.level, x.T)
        self.level.copy_(level)
        return y.T


class Forgetful(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return scan(smooth, torch.zeros(2), x.T)[1].T


def test_torchs_own_scan() -> None:
    module, x = OwnScan(), signal(32)
    model = microddsp.compile(module, x[:, :8], target="host", name="m")
    with torch.no_grad():
        expected = OwnScan()(x)
    same(np.concatenate([model.run(part) for part in x.split(8, -1)], -1), expected)


def test_a_scan_that_forgets_is_refused() -> None:
    pipeline = nn.Sequential(dsp.OnePole(5.0, sample_rate_hz=100.0), Forgetful())
    with pytest.raises(CompileError, match="scan starts anew in every block"):
        microddsp.compile(pipeline, signal(8), target="host", name="m")


class Layer(nn.Module):
    """A recurrent layer of torch over a frame."""

    def __init__(self, kind: str, **options: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = getattr(nn, kind)(3, 4, batch_first=True, **options)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y, last = self.layer(x)
        return (y, *last) if isinstance(last, tuple) else (y, last)


@pytest.mark.parametrize(
    ("kind", "options", "shape"),
    [
        ("GRU", {}, (12, 3)),
        ("GRU", {"num_layers": 2, "bidirectional": True}, (1, 12, 3)),
        ("GRU", {"bias": False}, (2, 12, 3)),
        ("LSTM", {}, (12, 3)),
        ("LSTM", {"num_layers": 2, "dropout": 0.5}, (2, 12, 3)),
    ],
)
def test_recurrent_layers_of_torch(
    kind: str, options: dict[str, object], shape: tuple[int, ...]
) -> None:
    module = Layer(kind, **options).eval()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    model = microddsp.compile(module, x, target="host", name="m")
    for got, expected in zip(model.run(x), module(x), strict=True):
        same(got, expected.detach())


def test_the_code_of_a_layer_does_not_grow_with_the_frame() -> None:
    sizes = [
        len(microddsp.compile(Layer("GRU"), torch.zeros(n, 3), target="host").sources["model.c"])
        for n in (10, 80)
    ]
    assert sizes[1] <= sizes[0] + 100
