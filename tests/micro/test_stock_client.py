"""The firmware and TVM's own client, with nothing of ours between."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest
import tvm

from microddsp.errors import LinkError
from microddsp.micro.rpc.link import call
from microddsp.micro.session import BoardSession

pytestmark = pytest.mark.qemu


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int64", "float16", "float64", "bool"])
def test_tensors_come_back_as_they_went(summing: BoardSession, dtype: str) -> None:
    device = summing.session.cpu(0)
    array = (np.random.default_rng(0).standard_normal((3, 5, 7)) * 100).astype(dtype)
    np.testing.assert_array_equal(tvm.runtime.tensor(array, device).numpy(), array)


@pytest.mark.parametrize("length", [0, 1, 7, 1000, 300_000])
def test_tensors_of_any_length_come_back(summing: BoardSession, length: int) -> None:
    array = np.arange(length, dtype=np.float32)
    there = tvm.runtime.tensor(array, summing.session.cpu(0))
    np.testing.assert_array_equal(there.numpy(), array)


def test_tensors_are_copied_on_the_device(summing: BoardSession) -> None:
    device = summing.session.cpu(0)
    one = tvm.runtime.tensor(np.arange(6, dtype=np.int16), device)
    two = tvm.runtime.empty((6,), "int16", device=device)
    one.copyto(two)
    assert two.numpy().tolist() == list(range(6))


def test_the_device_describes_itself(summing: BoardSession) -> None:
    device = summing.session.cpu(0)
    assert device.exist
    assert device.device_name == "cortex-m"
    assert not summing.session.cuda(0).exist
    assert 4_000_000 < device.total_global_memory < 4 * 1024 * 1024


def test_memory_is_given_back(summing: BoardSession) -> None:
    device = summing.session.cpu(0)
    before = device.available_global_memory
    random = np.random.default_rng(0)
    kept = []
    for _ in range(200):
        kept.append(tvm.runtime.empty((int(random.integers(1, 4000)),), "uint8", device=device))
        if len(kept) > 20:
            kept.pop(int(random.integers(20)))
    assert device.available_global_memory < before
    kept.clear()
    gc.collect()
    assert device.available_global_memory == before


def test_the_stock_time_evaluator_works(summing: BoardSession) -> None:
    session = summing.session
    device = session.cpu(0)
    x = tvm.runtime.tensor(np.ones((1, 8), np.float32), device)
    y = tvm.runtime.empty((1, 8), "float32", device=device)
    for _ in range(6):  # more than the device holds at once
        evaluate = session._sess.time_evaluator("process", device, number=3, repeat=2)
        first = evaluate(x, y).results
        assert first == evaluate(x, y).results
        assert 1e-6 < first[0] < 1e-4


def refuse_unknown(board: BoardSession) -> object:
    return board.session.get_function("nothing")(1)


def refuse_numbers(board: BoardSession) -> object:
    return board.session.get_function("process")(1, 2)


def refuse_type(board: BoardSession) -> object:
    device = board.session.cpu(0)
    x = tvm.runtime.empty((1, 8), "int32", device=device)
    return board.session.get_function("process")(x, x)


def refuse_size(board: BoardSession) -> object:
    device = board.session.cpu(0)
    x = tvm.runtime.empty((1, 9), "float32", device=device)
    return board.session.get_function("process")(x, x)


def refuse_short_bytes(board: BoardSession) -> object:
    room = tvm.runtime.empty((32,), "uint8", device=board.session.cpu(0))
    return board.session.get_function("process_bytes")(bytes(31), room)


def refuse_small_room(board: BoardSession) -> object:
    room = tvm.runtime.empty((31,), "uint8", device=board.session.cpu(0))
    return board.session.get_function("process_bytes")(bytes(32), room)


def refuse_large(board: BoardSession) -> object:
    return tvm.runtime.empty((1 << 25,), "uint8", device=board.session.cpu(0))


def refuse_huge(board: BoardSession) -> object:
    return tvm.runtime.empty((1 << 40, 1 << 23), "uint8", device=board.session.cpu(0))


def refuse_long_text(board: BoardSession) -> object:
    return board.session.get_function("reset")("x" * 100_000)


def refuse_many(board: BoardSession) -> object:
    return board.session.get_function("reset")(*range(100))


def refuse_dimensions(board: BoardSession) -> object:
    return tvm.runtime.empty((1,) * 20, "float32", device=board.session.cpu(0))


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (refuse_unknown, "nothing"),
        (refuse_numbers, "tensor is needed"),
        (refuse_type, "x: tensor has another dtype"),
        (refuse_size, "x: tensor has another number of elements"),
        (refuse_short_bytes, "x: the bytes of a block are needed"),
        (refuse_small_room, "room: tensor has another number of elements"),
        (refuse_large, "33554432 bytes left"),
        (refuse_huge, "larger than the device's address space"),
        (refuse_long_text, "too large for the device"),
        (refuse_many, "too many arguments"),
        (refuse_dimensions, "too many dimensions"),
    ],
)
def test_what_cannot_be_done_is_an_error_and_the_session_goes_on(
    summing: BoardSession, action: Callable[[BoardSession], object], words: str
) -> None:
    with pytest.raises(LinkError, match=words):
        call(action, summing)
    assert summing.run(np.ones((1, 8), np.float32))[0, -1] == 8.0
