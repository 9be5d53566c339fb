"""Signals cut into blocks for C, and blocks joined again for people."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from microddsp.errors import SignalError
from microddsp.signature import InputSpec, OutputStructure, Signature, TensorSpec
from microddsp.streams import join_blocks, split_blocks


def signature(
    *inputs: InputSpec, outputs: tuple[TensorSpec, ...] = (), kind: str = "tuple"
) -> Signature:
    structure = OutputStructure(kind, tuple(o.name for o in outputs))
    return Signature("m", inputs, outputs, structure, block=4, state_bytes=0, workspace_bytes=0)


FLOATS = signature(InputSpec("x", (2, 4), "float32", -1))
RAW = signature(InputSpec("x", (4, 2), "int16", 0, interleaved=True))
FRAME = signature(InputSpec("x", (3, 4, 5), "float32"))


def test_a_signal_is_cut_into_contiguous_blocks() -> None:
    signal = np.arange(16, dtype=np.float64).reshape(2, 8)
    blocks = split_blocks(FLOATS, [signal])
    assert len(blocks) == 2
    for i, (block,) in enumerate(blocks):
        assert block.dtype == np.float32
        assert block.flags.c_contiguous
        np.testing.assert_array_equal(block, signal[:, 4 * i : 4 * i + 4])


def test_an_interleaved_input_takes_channels_first_from_people() -> None:
    signal = np.arange(8, dtype=np.int64).reshape(2, 4)
    ((block,),) = split_blocks(RAW, [signal])
    assert block.flags.c_contiguous
    np.testing.assert_array_equal(block, signal.T)
    assert block.dtype == np.int16


def test_one_channel_may_come_without_its_axis() -> None:
    mono = signature(InputSpec("x", (1, 4), "float32", -1))
    assert split_blocks(mono, [torch.zeros(8)])[1][0].shape == (1, 4)


def test_an_input_that_is_no_signal_is_one_block() -> None:
    ((block,),) = split_blocks(FRAME, [np.zeros((3, 4, 5))])
    assert block.shape == (3, 4, 5)
    with pytest.raises(SignalError, match=r"shape \(3, 4, 5\)"):
        split_blocks(FRAME, [np.zeros((3, 4, 6))])


@pytest.mark.parametrize(
    ("form", "value", "words"),
    [
        (FLOATS, np.zeros((3, 4)), "2 channels"),
        (FLOATS, np.zeros((8, 2)), "transpose"),
        (FLOATS, np.zeros(8), "2 channels"),
        (FLOATS, np.zeros((2, 0)), "empty"),
        (FLOATS, np.zeros((2, 6)), "6 samples"),
        (FLOATS, np.full((2, 4), np.nan), "NaN"),
        (FLOATS, np.full((2, 4), np.inf), "infinite"),
        (FLOATS, np.full((2, 4), 1j), "takes numbers"),
        (FLOATS, np.full((2, 4), "a"), "takes numbers"),
        (RAW, np.zeros((2, 4)), "raw int16"),
        (RAW, np.full((2, 4), 40_000), "outside int16"),
    ],
)
def test_a_signal_that_does_not_fit_is_refused(
    form: Signature, value: np.ndarray, words: str
) -> None:
    with pytest.raises(SignalError, match=words):
        split_blocks(form, [value])


def test_a_wrong_number_of_inputs_is_refused() -> None:
    with pytest.raises(SignalError, match="takes 1 inputs, got 2"):
        split_blocks(FLOATS, [np.zeros((2, 4)), np.zeros((2, 4))])


def test_inputs_of_different_lengths_are_refused() -> None:
    two = signature(InputSpec("a", (1, 4), "float32", -1), InputSpec("b", (1, 4), "float32", -1))
    with pytest.raises(SignalError, match="different numbers of blocks"):
        split_blocks(two, [np.zeros((1, 4)), np.zeros((1, 8))])


def test_a_short_tail_is_dropped_only_when_asked() -> None:
    assert len(split_blocks(FLOATS, [np.zeros((2, 11))], "drop")) == 2
    with pytest.raises(SignalError, match="less than one block"):
        split_blocks(FLOATS, [np.zeros((2, 3))], "drop")
    with pytest.raises(SignalError, match="block of 4\n.*give at least 4"):
        split_blocks(FLOATS, [np.zeros((2, 3))])
    with pytest.raises(SignalError, match="unknown tail"):
        split_blocks(FLOATS, [np.zeros((2, 4))], "pad")


def test_outputs_are_joined_each_along_its_own_axis() -> None:
    outputs = (
        TensorSpec("signal", (1, 4), "float32", -1),
        TensorSpec("frames", (2, 3), "float32", 0),
        TensorSpec("label", (5,), "float32", None),
    )
    block = [np.zeros(spec.shape, np.float32) for spec in outputs]
    form = signature(InputSpec("x", (1, 4), "float32", -1), outputs=outputs, kind="dict")
    joined = join_blocks(form, [block, block, block])
    assert {name: value.shape for name, value in joined.items()} == {
        "signal": (1, 12),
        "frames": (6, 3),
        "label": (3, 5),
    }
    assert join_blocks(form, [block])["label"].shape == (5,)
    as_tensors = join_blocks(form, [block], like=[torch.zeros(1)])
    assert isinstance(as_tensors["signal"], torch.Tensor)
