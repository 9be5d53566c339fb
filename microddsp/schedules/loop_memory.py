"""Where the samples, states and parameters of a sample loop lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from microddsp.relax_ops.expression import Expr, constant
from microddsp.schedules.scalar_code import Value


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor parameter of the loop's function."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def constants(values: np.ndarray) -> list[Expr]:
    """Parameters known at compile time: rounded to float32 once, here."""
    return [constant(float(v)) for v in np.asarray(values, "float32").ravel()]


def _unravel(i: int, shape: Sequence[int]) -> list[int]:
    return [int(k) for k in np.unravel_index(i, tuple(shape))] if shape else []


def element_of(buffers: dict[str, tirx.Buffer], tensor: Tensor, c: Value | int, i: int) -> Value:
    """Element `i` of channel `c` in a tensor of shape (channels, ...)."""
    return buffers[tensor.name][(c, *_unravel(i, tensor.shape[1:]))]


def store_element(
    buffers: dict[str, tirx.Buffer], tensor: Tensor, c: Value | int, i: int, value: Value
) -> None:
    T.buffer_store(buffers[tensor.name], value, [c, *_unravel(i, tensor.shape[1:])])


def keep_sample(
    buffer: tirx.Buffer,
    value: Value,
    c: Value | int,
    start: Value | int,
    u: int,
    unroll: int,
    every: int,
) -> None:
    """Keep one of `every` samples; what can be known is decided now, not on the device."""
    if isinstance(start, int) or unroll % every == 0:
        known = (start if isinstance(start, int) else 0) + u
        if known % every == 0:
            first = 0 if isinstance(start, int) else tirx.floordiv(start, every)
            T.buffer_store(buffer, value, [c, first + known // every])
    elif every % unroll or u == 0:
        n = start + u
        with T.If(tirx.EQ(tirx.floormod(n, every), 0)), T.Then():
            T.buffer_store(buffer, value, [c, tirx.floordiv(n, every)])


def sample_of(
    buffers: dict[str, tirx.Buffer],
    tensor: Tensor,
    c: Value | int,
    n: Value | int,
    interleaved: bool,
) -> Value:
    index = [n, c] if interleaved else [c, n]
    index = index[len(index) - len(tensor.shape) :]
    return buffers[tensor.name][
        tuple(0 if size == 1 else i for i, size in zip(index, tensor.shape, strict=True))
    ]
