"""Choices of kernels: all give the same numbers, and a kernel is known by what it computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from microddsp import dsp
from microddsp.compiler import build, package_of
from microddsp.micro.package.model import CompiledModel
from microddsp.relax_ops.choices import Session
from microddsp.tuning.task import Task, tuning_tasks

RATE = 8000
BLOCK = 256


class Everything(torch.nn.Module):
    """Every kind of kernel that has choices."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        taps = torch.hann_window(33, periodic=False)
        self.band = dsp.Bandpass(low_hz=300.0, high_hz=900.0, order=4, sample_rate_hz=RATE)
        self.envelope = dsp.Envelope(attack_s=0.002, release_s=0.02, sample_rate_hz=RATE)
        self.count = dsp.EventCounter(threshold=0.3, hysteresis=0.5, sample_rate_hz=RATE)
        self.fir = dsp.FIR(taps / taps.sum())
        self.mel = dsp.MelSpectrogram(8, 128, sample_rate_hz=RATE)
        self.frames = dsp.Frames(BLOCK)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv1d(1, 8, 5, padding=2),
            torch.nn.ReLU(),
            torch.nn.Conv1d(8, 12, 3, padding=1),
            torch.nn.ReLU(),
        )
        self.linear = torch.nn.Linear(12, 6)
        self.causal = dsp.CausalConv1d(1, 4, 7)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        band = self.band(x)
        frames = self.frames(band)
        return {
            "count": self.count(self.envelope(band.abs())),
            "fir": self.fir(band),
            "mel": self.mel(band),
            "linear": self.linear(self.layers(frames).mean(-1)),
            "causal": self.causal(band),
        }


@pytest.fixture(scope="module")
def pipeline() -> torch.nn.Module:
    return Everything()


@pytest.fixture(scope="module")
def tasks(pipeline: torch.nn.Module) -> list[Task]:
    return tuning_tasks(pipeline, torch.zeros(1, BLOCK), name="all")


def compiled(pipeline: torch.nn.Module, session: Session | None) -> CompiledModel:
    example = torch.zeros(1, BLOCK)
    return package_of(build(pipeline, example, name="all", choices=session), "all", "c", False)
