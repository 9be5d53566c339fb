"""Blocks from one sample to 4096, and any number of channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import microddsp
from microddsp import dsp

RATE = 8000


def chain() -> nn.Module:
    return nn.Sequential(
        dsp.Bandpass(400.0, 900.0, 4, sample_rate_hz=RATE),
        dsp.FIR(torch.hann_window(9) / 4),
        dsp.Envelope(0.002, 0.05, sample_rate_hz=RATE),
        dsp.EventCounter(0.05, 0.5, refractory_s=0.01, sample_rate_hz=RATE),
    )


@pytest.mark.parametrize(
    ("block", "channels"), [(1, 1), (1, 3), (2, 16), (3, 2), (8, 33), (63, 5), (1000, 2), (4096, 1)]
)
def test_a_pipeline_is_right_in_any_block_and_channels(block: int, channels: int) -> None:
    torch.manual_seed(block + channels)
    x = torch.randn(channels, min(4096 // block, 150) * block)
    x *= torch.sin(torch.arange(x.shape[-1]) * 0.03) ** 8  # events that come and go
    model = microddsp.compile(chain(), x[:, :block], target="host", name="m")
    report = microddsp.verify(chain(), model, x)
    assert report.passed
    assert (torch.as_tensor(model.run(x))[..., -1] > 0).all()


@pytest.mark.qemu
def test_the_longest_block_fits_a_device() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2 * 4096)
    model = microddsp.compile(chain(), x[:, :4096], target="cortex-m4f", name="m")
    assert microddsp.verify(chain(), model, x, board="mps2-an386").passed
