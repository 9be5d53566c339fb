"""Where the time of a block goes, kernel by kernel."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

import microddsp
from microddsp import dsp
from microddsp.errors import BoardError
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.platforms.profiling import MARK, instrument
from microddsp.micro.session import open_board

Maker = Callable[..., CompiledModel]
X = np.random.default_rng(0).standard_normal((1, 64 * 6)).astype(np.float32)


@pytest.fixture(scope="module")
def layered() -> CompiledModel:
    """A filter, then two layers on frames: several kernels of very different length."""
    torch.manual_seed(0)
    pipeline = torch.nn.Sequential(
        dsp.Bandpass(low_hz=90.0, high_hz=700.0, order=4, sample_rate_hz=8000),
        dsp.Frames(128, 64),
        torch.nn.Linear(128, 16),
        torch.nn.ReLU(),
        torch.nn.Linear(16, 4),
    )
    return microddsp.compile(pipeline, torch.zeros(1, 64), name="layers")


def test_marks_stand_around_the_calls_of_kernels_and_nowhere_else(layered: CompiledModel) -> None:
    sources, pieces = instrument(layered)
    body = layered.sources["layers.c"].rpartition("layers_process_unchecked(")[2]
    calls = re.findall(r"^    layers_(k\d+_\w+)\(", body, re.MULTILINE)
    assert len(calls) >= 3
    assert [piece for piece in pieces if piece.startswith("k")] == calls
    text = sources["layers.c"]
    assert text.count(f"{MARK}(") == len(pieces) + 2  # one more at the start, and the declaration
    # without the marks it is the C that everybody gets
    unmarked = re.sub(rf"^ *{MARK}\(\d+u\);\n", "", text, flags=re.MULTILINE)
    unmarked = unmarked.replace(f"\nvoid {MARK}(uint32_t mark);\n", "")
    assert unmarked == layered.sources["layers.c"]
    assert MARK not in layered.sources["layers.c"]


@pytest.mark.qemu
def test_a_profile_tells_every_kernel_and_sums_up_to_the_block(layered: CompiledModel) -> None:
    with open_board("mps2-an386", layered) as board:
        first = board.profile(X)
        assert first == board.profile(X)
        whole = board.time(X).instructions_median
    assert [part.name for part in first[:-1]] == list(instrument(layered)[1])
    assert first[-1].name == "rest of layers_process"
    assert all(part.unit == "instructions" for part in first)
    assert all(0 < part.minimum <= part.median <= part.maximum for part in first)
    assert sum(part.share for part in first) == pytest.approx(1.0)
    # what the marks themselves take is not in it; the compiler may still order things otherwise
    assert sum(part.instructions for part in first) == pytest.approx(whole, rel=0.03)
    # 64 x 128 multiplications are more than 16 x 4
    shares = [part.share for part in first if "matmul" in part.name]
    assert shares[0] > 10 * shares[1]


@pytest.mark.qemu
def test_a_firmware_with_marks_gives_the_same_answers(layered: CompiledModel) -> None:
    with open_board("mps2-an386", layered, profile=True) as board:
        before = board.run(X)
        assert board.profile(X)[0].median > 0
        np.testing.assert_array_equal(board.run(X), before)
    np.testing.assert_array_equal(before, layered.run(X))


def test_a_profile_on_this_computer_is_in_nanoseconds(layered: CompiledModel) -> None:
    with open_board("host", layered, profile=True) as board:
        parts = board.profile(X)
        timing = board.time(X)
    assert {part.unit for part in parts} == {"nanoseconds"}
    assert timing.unit == "nanoseconds"
    assert sum(part.share for part in parts) == pytest.approx(1.0)
    with pytest.raises(BoardError, match="counts nanoseconds, not instructions"):
        _ = timing.instructions_median


@pytest.mark.qemu
def test_code_without_kernels_is_one_part(probe: Maker) -> None:
    with open_board("mps2-an386", probe()) as board:
        (only,) = board.profile(np.zeros((1, 8), np.float32))
        assert only.name == "probe_process"
        assert only.share == 1.0
        assert only.instructions == board.time(np.zeros((1, 8), np.float32)).instructions_median
