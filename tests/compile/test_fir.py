"""The tiled FIR kernel: every way that taps, tiles and blocks can fail to divide each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import microddsp
from microddsp import dsp
from microddsp.relax_ops.fir_kernel import mirror_of

LENGTHS = (1, 2, 7, 8, 9, 16, 17, 33)
BLOCKS = (1, 5, 8, 20, 33, 64)
# Every length with two blocks and every block with several lengths, not the whole product.
CASES = [pair for i, pair in enumerate(itertools.product(LENGTHS, BLOCKS)) if i % 3 == 0]


def check(taps: np.ndarray, block: int, channels: int = 1) -> None:
    module = dsp.FIR(taps)
    model = microddsp.compile(module, torch.zeros(channels, block), target="host", name="m")
    rng = np.random.default_rng(block)
    x = rng.standard_normal((channels, block * 6)).astype(np.float32)
    found = np.concatenate([model.run(b) for b in np.split(x, 6, -1)], -1)
    rows = np.broadcast_to(np.asarray(taps, np.float64), (channels, np.shape(taps)[-1]))
    exact = np.stack([np.convolve(x[c], rows[c])[: x.shape[1]] for c in range(channels)])
    np.testing.assert_allclose(found, exact, atol=2e-6 * np.abs(rows).sum(), rtol=0)


@pytest.mark.parametrize(("length", "block"), CASES)
def test_any_taps_and_block(length: int, block: int) -> None:
    check(np.random.default_rng(length).standard_normal(length), block)


@pytest.mark.parametrize(
    ("length", "block", "channels"),
    [(64, 8, 1), (64, 10, 2), (100, 24, 2), (10, 10, 1), (33, 160, 2), (21, 45, 1), (70, 14, 1)],
)
def test_samples_that_are_read_where_they_are(length: int, block: int, channels: int) -> None:
    """Tiles of 8, 10, 9 and 7; states that are shorter than a block and that move on in pieces."""
    check(np.random.default_rng(length).standard_normal((channels, length)), block, channels)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("length", "block"), [(2, 1), (9, 20), (16, 33), (15, 8), (32, 64)])
def test_linear_phase(length: int, block: int, sign: int) -> None:
    taps = np.random.default_rng(length).standard_normal(length).astype(np.float32)
    taps = taps + sign * taps[::-1]
    assert mirror_of(taps) == sign
    check(taps, block)


def test_linear_phase_of_every_channel() -> None:
    taps = np.array([[1.0, 2.0, 1.0], [0.5, -3.0, 0.5]], np.float32)
    assert mirror_of(taps) == 1
    check(taps, 24, channels=2)
    mixed = np.array([[1.0, 2.0, 1.0], [1.0, 0.0, -1.0]], np.float32)
    assert mirror_of(mixed) == 0
    check(mixed, 24, channels=2)


@pytest.mark.qemu
def test_the_device_agrees() -> None:
    module = dsp.FIR(np.random.default_rng(3).standard_normal(33))
    model = microddsp.compile(module, torch.zeros(1, 64), target="cortex-m4f", name="m")
    microddsp.verify(module, model, torch.randn(1, 64 * 5), board="mps2-an386")
