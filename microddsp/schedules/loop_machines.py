"""Parts of a sample loop that are no formula: they have a memory of their own, and statements.

Each hears some expressions and gives one. They run in the order in which they were added, each
after the formulas that it hears.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from microddsp.relax_ops.event_counter import (
    emit_event_counter,
    load_registers,
    store_registers,
)
from microddsp.relax_ops.expression import Expr, leaf
from microddsp.schedules.loop_memory import Tensor, store_element
from microddsp.schedules.scalar_code import Value, float32, opaque


@dataclass(frozen=True, slots=True)
class Memory:
    """What machines of one channel see: the function's tensors, the loop's integers, and a place
    for an event if anybody hears events."""

    channel: Value | int
    buffers: dict[str, tirx.Buffer]
    ints: tirx.Buffer
    event: tirx.Buffer | None

    def keep(self, tensor: Tensor, value: Value) -> None:
        """Store a value of the channel, if anybody wants it."""
        if tensor.name in self.buffers:
            store_element(self.buffers, tensor, self.channel, 0, value)


class Machine(Protocol):
    """`held` pairs next states with the inputs that they continue. Those in `grown` hold the input
    when the loop starts, and are written bit by bit. `registers` integers of the loop are its own,
    from `base`."""

    result: Expr
    registers: int
    base: int

    @property
    def heard(self) -> tuple[Expr, ...]: ...

    def hearing(self, heard: Sequence[Expr]) -> Machine: ...

    @property
    def held(self) -> list[tuple[Tensor, Tensor]]: ...

    @property
    def grown(self) -> list[Tensor]: ...

    def load(self, memory: Memory) -> None: ...

    def run(self, heard: Sequence[Value], n: Value | int, memory: Memory) -> Value | None: ...

    def store(self, memory: Memory, samples: int) -> None: ...


@dataclass(slots=True)
class Counter:
    """The event counter; its result is the 0/1 signal of events."""

    signal: Expr
    thresholds: tuple[Expr, Expr]
    refractory_samples: int
    source: Tensor
    target: Tensor
    count: Tensor
    base: int
    result: Expr = field(default_factory=lambda: leaf("event"))
    registers: int = 3

    @property
    def heard(self) -> tuple[Expr, ...]:
        return (self.signal, *self.thresholds)

    def hearing(self, heard: Sequence[Expr]) -> Counter:
        """The same one with other expressions."""
        signal, high, low = heard
        return replace(self, signal=signal, thresholds=(high, low))

    @property
    def held(self) -> list[tuple[Tensor, Tensor]]:
        return [(self.target, self.source)]

    @property
    def grown(self) -> list[Tensor]:
        return []

    def load(self, memory: Memory) -> None:
        load_registers(memory.buffers[self.source.name], memory.channel, memory.ints, self.base)

    def run(self, heard: Sequence[Value], n: Value | int, memory: Memory) -> Value | None:
        x, high, low = heard
        event = memory.event
        if event is not None:
            T.buffer_store(event, float32(0.0), [0])
        fired = None if event is None else (event, 0)
        emit_event_counter(x, n, high, low, self.refractory_samples, memory.ints, self.base, fired)
        return None if event is None else T.bind(event[0])

    def store(self, memory: Memory, samples: int) -> None:
        if self.target.name in memory.buffers:
            target = memory.buffers[self.target.name]
            store_registers(target, memory.channel, memory.ints, self.base, samples)
        memory.keep(self.count, memory.ints[self.base + 2])


@dataclass(slots=True)
class Line:
    """The ring of `dsp.swept_delay`: the newest sample takes the place of the oldest."""

    signal: Expr
    delay: Expr
    source: Tensor
    target: Tensor
    place: Tensor
    following: Tensor  # the place after the block
    base: int
    result: Expr = field(default_factory=lambda: leaf("delayed"))
    registers: int = 1

    @property
    def heard(self) -> tuple[Expr, ...]:
        return (self.signal, self.delay)

    def hearing(self, heard: Sequence[Expr]) -> Line:
        """The same one with other expressions."""
        signal, delay = heard
        return replace(self, signal=signal, delay=delay)

    @property
    def held(self) -> list[tuple[Tensor, Tensor]]:
        return [(self.target, self.source), (self.following, self.place)]

    @property
    def grown(self) -> list[Tensor]:
        return [self.target]

    def load(self, memory: Memory) -> None:
        T.buffer_store(memory.ints, memory.buffers[self.place.name][memory.channel, 0], [self.base])

    def run(self, heard: Sequence[Value], n: Value | int, memory: Memory) -> Value | None:
        x, delay = heard
        c, ring, length = memory.channel, memory.buffers[self.target.name], self.target.shape[-1]
        zero, most = float32(0.0), float32(float(length - 2))
        place = T.bind(memory.ints[self.base])
        T.buffer_store(ring, x, [c, place])
        after = tirx.Select(tirx.EQ(place, length - 1), tirx.IntImm("int32", 0), place + 1)
        T.buffer_store(memory.ints, after, [self.base])
        # a NaN is neither below nor above: it stays, but must not become an index
        above = T.bind(opaque(tirx.Select(tirx.LT(delay, zero), zero, delay)))
        held = T.bind(opaque(tirx.Select(tirx.GT(above, most), most, above)))
        whole = T.bind(tirx.Cast("int32", tirx.Select(tirx.GT(held, zero), held, zero)))
        share = T.bind(opaque(tirx.Sub(held, tirx.Cast("float32", whole))))
        back = T.bind(place - whole)
        newer = T.bind(tirx.Select(back < 0, back + length, back))
        older = T.bind(tirx.Select(tirx.EQ(newer, 0), tirx.IntImm("int32", length - 1), newer - 1))
        right, left = (T.bind(opaque(ring[c, i])) for i in (newer, older))
        return T.bind(opaque(tirx.Add(right, tirx.Mul(share, tirx.Sub(left, right)))))

    def store(self, memory: Memory, samples: int) -> None:
        memory.keep(self.following, memory.ints[self.base])
