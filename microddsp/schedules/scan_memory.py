"""Memory of a scan: signals, states, and delay lines that do not move from sample to sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

MOVES = 8  # of a delay line in one pass

Value = Any  # a TIR expression; tvm has no types


@dataclass(frozen=True, slots=True)
class Stream:
    """A tensor with one `shape` per sample; time is its first axis, or its last."""

    shape: tuple[int, ...]
    samples: int
    dtype: str
    last: bool

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        return (*self.shape, self.samples) if self.last else (self.samples, *self.shape)

    def index(self, at: Sequence[Value], t: Value) -> list[Value]:
        return [*at, t] if self.last else [t, *at]


@dataclass(frozen=True, slots=True)
class Carried:
    """A state: given to the body as a whole."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Line(Carried):
    """A delay line: the body reads `taps` along `axis` and gives one new value; nothing moves
    from sample to sample. Its newest value is the first of the axis, or the last."""

    axis: int
    taps: tuple[int, ...]
    newest_first: bool

    @property
    def length(self) -> int:
        return self.shape[self.axis]

    @property
    def value_shape(self) -> tuple[int, ...]:
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    def index(self, at: Sequence[Value], k: Value) -> list[Value]:
        return [*at[: self.axis], k, *at[self.axis :]]


def argument(name: str, shape: Sequence[int], dtype: str) -> tirx.Buffer:
    return T.arg(name, tirx.decl_buffer(tuple(shape), dtype, name))


def local(shape: Sequence[int], dtype: str) -> tirx.Buffer:
    return T.alloc_buffer(tuple(shape) or (1,), dtype, scope="global")


def flat(buffer: tirx.Buffer, shape: Sequence[int], dtype: str) -> tirx.Buffer:
    return T.decl_buffer((math.prod(shape),), dtype, data=buffer.data)


def row_of(at: Sequence[Value], shape: Sequence[int]) -> Value:
    """The place of an index in flat memory."""
    place: Value = 0
    for i, size in zip(at, shape, strict=True):
        place = place * size + i
    return place


def place_of(index: Sequence[Value]) -> tuple[Value, ...]:
    return tuple(index) or (0,)


def store(buffer: tirx.Buffer, at: Sequence[Value], value: Value) -> None:
    T.buffer_store(buffer, value, list(place_of(at)))


def each(shape: Sequence[int], body: Any) -> None:
    with ExitStack() as stack:
        body([0 if n == 1 else stack.enter_context(T.serial(0, n)) for n in shape])


def copy(target: tirx.Buffer, source: tirx.Buffer, shape: Sequence[int]) -> None:
    to = flat(target, shape, str(target.dtype))
    out = flat(source, shape, str(source.dtype))
    each((math.prod(shape),), lambda at: T.buffer_store(to, out[at[0]], at))


def read_tap(
    line: Line,
    tap: int,
    start: tirx.Buffer,
    fresh: tirx.Buffer,
    place: tirx.Buffer,
    t: Value,
    samples: int,
) -> None:
    """A tap at sample t: from this block if it is younger than that, else from before."""
    age = tap if line.newest_first else line.length - 1 - tap
    old = tap - t if line.newest_first else tap + t

    def from_before() -> None:
        each(line.value_shape, lambda at: store(place, at, start[place_of(line.index(at, old))]))

    if age >= samples - 1:
        from_before()
        return
    with T.If(t > age):
        with T.Then():
            each(line.value_shape, lambda at: store(place, at, fresh[(t - 1 - age, *at)]))
        with T.Else():
            from_before()


def shift_line(
    line: Line, start: tirx.Buffer, fresh: tirx.Buffer, target: tirx.Buffer, samples: int
) -> None:
    """The line after the block, oldest values first: `start` may be the same memory."""
    length = line.length

    def place(age: Value) -> Value:
        return age if line.newest_first else length - 1 - age

    def move(age: Value, at: Sequence[Value]) -> None:
        T.buffer_store(
            target, start[tuple(line.index(at, place(age - samples)))], line.index(at, place(age))
        )

    def take(age: Value, at: Sequence[Value]) -> None:
        T.buffer_store(target, fresh[(samples - 1 - age, *at)], line.index(at, place(age)))

    kept = max(length - samples, 0)
    _moves(kept, lambda i: each(line.value_shape, lambda at: move(length - 1 - i, at)))
    _moves(min(length, samples), lambda i: each(line.value_shape, lambda at: take(i, at)))


def _moves(count: int, move: Callable[[Value], None]) -> None:
    """`move(i)` in order, several a pass: a loop would cost more than what it moves."""
    passes, left = divmod(count, MOVES)
    if passes:
        with T.serial(0, passes) as m, T.unroll(0, MOVES) as i:
            move(m * MOVES + i)
    for i in range(passes * MOVES, passes * MOVES + left):
        move(i)
