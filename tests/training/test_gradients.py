"""Verification of gradients: right ones pass, wrong ones are named."""

import csv
import json
import math

import pytest
import torch

from microddsp import dsp
from microddsp.errors import ParameterError, SignalError, VerificationError
from microddsp.training import verify_gradients

RATE = 1000.0


def signal(samples: int = 128) -> torch.Tensor:
    return torch.randn(1, samples, generator=torch.Generator().manual_seed(0))


def pipeline() -> torch.nn.Module:
    return torch.nn.Sequential(
        dsp.Bandpass(60.0, 160.0, 2, sample_rate_hz=RATE, initial="first_sample"),
        dsp.Gain(2.0),
        dsp.FIR([0.5, 0.4, -0.2]),
        dsp.Envelope(0.005, 0.03, sample_rate_hz=RATE),
        dsp.EventCounter(0.1, 0.5, sample_rate_hz=RATE, per_sample=True),
    )


def test_reverse_mode_forward_mode_and_differences_agree_on_a_whole_pipeline() -> None:
    report = verify_gradients(pipeline(), signal())
    assert not report.wrong
    assert [row.name for row in report.rows][:3] == ["0.low.raw", "0.high.raw", "1.gain"]
    assert report.surrogate == ("4",)
    for row in report.rows:
        assert row.delta == abs(row.reverse - row.finite_difference)
        assert row.relative_error is not None and row.relative_error < 1e-4
    deltas = [row.reverse - row.finite_difference for row in report.rows]
    mean = sum(deltas) / len(deltas)
    assert report.mean_delta == pytest.approx(mean)
    spread = math.sqrt(sum((d - mean) ** 2 for d in deltas) / len(deltas))
    assert report.deviation == pytest.approx(spread)


class Doubled(torch.autograd.Function):
    """Says that its gradient is twice what it is."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return 2 * g

    @staticmethod
    def jvp(ctx, t):
        return t.clone()


class Wrong(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fine = torch.nn.Parameter(torch.tensor(1.0))
        self.broken = torch.nn.Parameter(torch.tensor([2.0, 3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fine * x + Doubled.apply(self.broken[1]) * x.square() + self.broken[0]


def test_a_wrong_gradient_is_named() -> None:
    report = verify_gradients(Wrong(), signal())
    assert report.wrong == ("broken[1]",)
    assert report.rows[2].reverse == pytest.approx(2 * report.rows[2].finite_difference)
    assert report.rows[2].relative_error == pytest.approx(0.5, rel=1e-3)
    with pytest.raises(VerificationError, match=r"broken\[1\]"):
        report.raise_if_wrong()


def test_near_zero_no_percentage_is_told() -> None:
    module = torch.nn.Sequential(dsp.Gain(1.0), Wrong())
    module[1].broken.requires_grad_(False)

    def objective(y: torch.Tensor) -> torch.Tensor:
        return y.sum() + 1e-9 * torch.sin(module[1].fine)  # noise on an otherwise sound number

    rows = {row.name: row for row in verify_gradients(module, 0 * signal(), objective).rows}
    assert rows["1.fine"].relative_error is None and rows["1.fine"].right


def test_the_module_stays_as_it_was() -> None:
    module = pipeline()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    verify_gradients(module, signal())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]) and value.dtype == torch.float32
    assert all(p.grad is None for p in module.parameters())


def test_what_cannot_be_verified_is_refused() -> None:
    with pytest.raises(ParameterError, match="requires a gradient"):
        verify_gradients(dsp.Gain().requires_grad_(False), signal())
    with pytest.raises(ParameterError, match="epsilon"):
        verify_gradients(dsp.Gain(), signal(), epsilon=0.0)
    with pytest.raises(SignalError, match="depends on no"):
        verify_gradients(dsp.Gain(), signal(), lambda y: y.detach().sum())


def test_the_report_is_written_as_json_and_csv(tmp_path) -> None:
    report = verify_gradients(Wrong(), signal())
    report.write_csv(tmp_path / "g.csv")
    with (tmp_path / "g.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["name"] for row in table] == ["fine", "broken[0]", "broken[1]"]
    assert float(table[0]["reverse"]) == report.rows[0].reverse
    assert json.loads(json.dumps(report.to_json()))["wrong"] == ["broken[1]"]
