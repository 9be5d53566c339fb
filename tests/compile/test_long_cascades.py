"""A long run of filters is cut into loops whose states and coefficients fit the registers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import microddsp
from microddsp import dsp
from microddsp.errors import ParameterError

BLOCK = 64


def cascade(sections: int) -> dsp.SOS:
    """Sections of no symmetry: their numerators are four numbers each."""
    random = np.random.default_rng(sections)
    radius, angle = random.uniform(0.3, 0.9, sections), random.uniform(0.1, 3.0, sections)
    poles = np.stack([np.ones(sections), -2 * radius * np.cos(angle), radius**2], -1)
    zeros = random.uniform(-0.5, 0.5, (sections, 3)) + [1.0, 0.0, 0.0]
    return dsp.SOS(torch.tensor(np.concatenate([zeros, poles], -1)), sample_rate_hz=8000)


@pytest.mark.parametrize(("sections", "buffers"), [(4, 0), (8, 1), (12, 2)])
def test_a_long_cascade_is_cut_and_right(sections: int, buffers: int) -> None:
    x = torch.randn(2, 5 * BLOCK, generator=torch.Generator().manual_seed(0))
    model = microddsp.compile(cascade(sections), x[:, :BLOCK], target="host", name="m")
    assert model.memory.arena_bytes == buffers * 4 * BLOCK
    assert microddsp.verify(cascade(sections), model, x).passed


def test_a_number_of_loops_of_ones_own_gives_the_same_to_the_bit() -> None:
    x = torch.randn(1, 5 * BLOCK, generator=torch.Generator().manual_seed(1))
    results = [
        microddsp.compile(cascade(9), x[:, :BLOCK], target="host", name="m", loops=n).run(x)
        for n in (1, 2, 3, 4)
    ]
    assert all(torch.equal(torch.as_tensor(r), torch.as_tensor(results[0])) for r in results)


def test_a_long_block_is_not_kept_a_second_time() -> None:
    model = microddsp.compile(cascade(8), torch.zeros(1, 4096), target="host", name="m")
    assert model.memory.arena_bytes == 0


@pytest.mark.parametrize("loops", [0, 5, True])
def test_a_number_of_loops_that_makes_no_sense_is_refused(loops: int) -> None:
    with pytest.raises(ParameterError, match="loops must be 1 to 4"):
        microddsp.compile(cascade(2), torch.zeros(1, 8), loops=loops)


@pytest.mark.qemu
def test_the_device_is_faster_for_it() -> None:
    x = torch.randn(1, 6 * BLOCK, generator=torch.Generator().manual_seed(2))
    cost = {}
    for loops in (1, None):
        model = microddsp.compile(
            cascade(12), x[:, :BLOCK], target="cortex-m4f", name="m", loops=loops
        )
        with microddsp.open_board("mps2-an386", model) as board:
            cost[loops] = board.time(x).instructions_per_sample
            assert microddsp.verify(cascade(12), model, x).passed
    assert cost[None] < 0.75 * cost[1]
