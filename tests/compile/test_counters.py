"""A counter alone in its loop scans, and counts what the machine counts, whatever comes in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import microddsp
from microddsp import dsp
from microddsp.micro.package.host_library import HostLibrary
from microddsp.relax_ops.event_counter import event_counter

RATE = 8000.0


class Scaled(nn.Module):
    """What is computed again for each look at a sample."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs() * 0.5


def hard_signal(channels: int, samples: int, thresholds: np.ndarray) -> np.ndarray:
    """Quiet stretches, noise, the thresholds themselves, zeros, infinities, kinds of NaN."""
    rng = np.random.default_rng(samples)
    x = rng.standard_normal((channels, samples)).astype("float32")
    x *= np.repeat(rng.choice([0.1, 1.0, 3.0], (channels, -(-samples // 16))), 16, -1)[:, :samples]
    up, down = np.nextafter(thresholds, np.inf), np.nextafter(thresholds, -np.inf)
    nans = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF800001], "uint32").view("float32")
    special = np.array([0.0, -0.0, np.inf, -np.inf, *thresholds, *up, *down, *nans], "float32")
    at = rng.random(x.shape) < 0.3
    x[at] = rng.choice(special, int(at.sum()))
    return x


@pytest.mark.parametrize(
    ("block", "channels", "high", "low", "refractory"),
    [
        (64, 1, 0.5, 0.25, 11),
        (64, 1, 0.0, -0.5, 0),
        (13, 2, -0.5, -0.75, 3),
        (8, 2, 0.5, -0.25, 100),
        (9, 1, 0.25, 0.0, 1),
        (7, 1, 0.5, 0.25, 5),
        (24, 2, [0.5, -0.1], [0.2, -0.4], 4),
    ],
)
def test_the_device_counts_what_the_machine_counts(
    block: int, channels: int, high: float, low: float, refractory: int
) -> None:
    counter = dsp.EventCounter(
        high, release_threshold=low, refractory_s=refractory / RATE, sample_rate_hz=RATE
    )
    model = microddsp.compile(nn.Sequential(counter), torch.zeros(channels, block), name="counter")
    library = HostLibrary(model.signature, model.sources)
    limits = counter.designed("thresholds").detach().float()  # within a rounding of those given
    x = hard_signal(
        channels, 40 * block, np.unique(np.append(limits.numpy(), np.float32([high, low])))
    )
    state = torch.zeros(channels, 3, dtype=torch.int32)
    counts = []
    for part in np.split(x, 40, -1):
        (found,) = library.process([np.ascontiguousarray(part)])
        expected, _, state = event_counter(torch.from_numpy(part), limits, state, refractory)
        np.testing.assert_array_equal(found, expected.numpy())
        counts.append(found)
    assert (counts[-1] >= 2).all()


def test_a_computed_signal_and_integer_samples_are_counted_alike() -> None:
    def pipeline() -> nn.Module:
        counter = dsp.EventCounter(0.5, 0.5, refractory_s=0.001, sample_rate_hz=RATE)
        return nn.Sequential(Scaled(), counter)

    raw = np.random.default_rng(0).integers(-3000, 3000, (1, 640)).astype("int16")
    model = microddsp.compile(
        pipeline(), torch.zeros(1, 64), input=microddsp.Input(dtype="s16", scale=1 / 1024)
    )
    expected = pipeline()(torch.from_numpy(raw.astype("float32") / 1024))
    found = model.run(raw)
    assert int(found[0, -1]) == int(expected[0, -1]) > 10
