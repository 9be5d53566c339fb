"""The code of a sample loop for one channel: what a `SampleLoop` has collected, as statements."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from microddsp.relax_ops.expression import Expr, in_order
from microddsp.schedules.event_scan import TOGETHER, Scan
from microddsp.schedules.loop_machines import Counter, Machine, Memory
from microddsp.schedules.loop_memory import (
    Tensor,
    element_of,
    keep_sample,
    sample_of,
    store_element,
)
from microddsp.schedules.scalar_code import Value, count_uses, emit


@dataclass(slots=True)
class State:
    """Elements of a channel's state, from `first` on."""

    source: int  # tensor that holds it before the block
    target: Tensor
    leaves: tuple[Expr, ...]
    following: list[Expr] = field(default_factory=list)
    first: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """Of the loop's channel, or of channel `row`."""

    value: Expr
    index: int
    interleaved: bool
    row: int | None


@dataclass(frozen=True, slots=True)
class Store:
    """Every so many samples, to the loop's channel or to `row`; `added` to what is there."""

    signal: Expr
    target: Tensor
    every: int
    row: int | None
    added: bool = False


def roots_of(
    states: Sequence[State], stores: Sequence[Store], machines: Sequence[Machine]
) -> list[Expr]:
    """All that a loop computes for its own sake, in the order of the arguments."""
    roots = [expr for state in states for expr in state.following]
    roots += [store.signal for store in stores]
    return roots + [expr for machine in machines for expr in machine.heard]


@dataclass(slots=True)
class Parts:
    """All of a loop over `samples`. `tables` are leaves with their tensor and their element of a
    channel; `machines` run in their order."""

    samples: int
    inputs: list[Tensor] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    tables: list[tuple[Expr, int, int]] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    machines: list[Machine] = field(default_factory=list)
    signals: list[Store] = field(default_factory=list)
    scan: bool = True  # counters that are alone, where that can be

    def integers(self) -> int:
        """How many the machines so far have."""
        return sum(machine.registers for machine in self.machines)

    def emit(self, c: Value | int, buffers: dict[str, tirx.Buffer], unroll: int) -> None:
        """Code of channel `c`: states to registers, all samples, registers to states."""
        floats = sum(len(s.leaves) for s in self.states)
        fixed: dict[int, Value] = {
            id(value): T.bind(element_of(buffers, table, c if table.shape[0] > 1 else 0, i))
            for value, index, i in self.tables
            for table in (self.inputs[index],)
        }
        registers: tirx.Buffer = T.alloc_buffer((floats,), "float32") if floats else None
        count = self.integers()
        ints: tirx.Buffer = T.alloc_buffer((count,), "int32") if count else None
        event = T.alloc_buffer((1,), "float32") if self.events_used() else None
        memory = Memory(c, buffers, ints, event)
        leaves = [value for state in self.states for value in state.leaves]
        at = 0
        for state in self.states:
            for i in range(len(state.leaves)):
                held = element_of(buffers, self.inputs[state.source], c, state.first + i)
                T.buffer_store(registers, held, [at + i])
            at += len(state.leaves)
        for machine in self.machines:
            machine.load(memory)

        def body(start: Value | int, count: int) -> None:
            carried = {id(v): T.bind(registers[i]) for i, v in enumerate(leaves)}
            for u in range(count):
                place = (start, u, count)
                carried = self._sample(place, fixed, carried, memory)
            for i, value in enumerate(leaves):
                T.buffer_store(registers, carried[id(value)], [i])

        passes, left = divmod(self.samples, unroll)
        scanned = self.scan and self.only_counts(buffers)
        if scanned:
            for machine in self.machines:
                self._scan(machine, fixed, memory)
        elif passes == 1:
            body(0, unroll)
        else:
            with T.serial(0, passes) as m:
                body(m * unroll, unroll)
        if left and not scanned:
            body(passes * unroll, left)
        at = 0
        for state in self.states:
            for i in range(len(state.leaves)):
                if state.target.name in buffers:
                    store_element(buffers, state.target, c, state.first + i, registers[at + i])
            at += len(state.leaves)
        for machine in self.machines:
            machine.store(memory, self.samples)

    def only_counts(self, wanted: Container[str]) -> bool:
        """No state but counters, no signal put out, and signals that are quick to compute again."""
        if self.events_used() or self.samples < TOGETHER or self.states or not self.machines:
            return False
        if not all(isinstance(machine, Counter) for machine in self.machines):
            return False
        if any(store.target.name in wanted for store in self.signals):
            return False
        heard = [machine.heard[0] for machine in self.machines]
        roots = {id(signal) for signal in heard}
        return all(used == 1 or at in roots for at, used in count_uses(heard).items())

    def _scan(self, counter: Machine, fixed: dict[int, Value], memory: Memory) -> None:
        assert isinstance(counter, Counter)
        limits = emit(counter.thresholds, dict(fixed), count_uses(counter.thresholds))

        def sample(n: Value) -> Value:
            # in its place, not in a local: part of a condition
            once = {id(expr): 1 for expr in in_order([counter.signal])}
            return emit([counter.signal], dict(fixed) | self._loaded(n, memory), once)[0]

        Scan(sample, self.samples, counter, (limits[0], limits[1]), memory.ints).emit()

    def _loaded(self, n: Value | int, memory: Memory) -> dict[int, Value]:
        """The samples of all inputs at one time."""
        values = {}
        for load in self.loads:
            channel = memory.channel if load.row is None else load.row
            tensor = self.inputs[load.index]
            values[id(load.value)] = sample_of(memory.buffers, tensor, channel, n, load.interleaved)
        return values

    def _sample(
        self,
        place: tuple[Value | int, int, int],
        fixed: dict[int, Value],
        carried: dict[int, Value],
        memory: Memory,
    ) -> dict[int, Value]:
        c, buffers = memory.channel, memory.buffers
        start, u, unroll = place  # sample u of a pass of so many, which starts at `start`
        n = start + u
        values = dict(fixed) | carried
        following = [expr for state in self.states for expr in state.following]
        signals = [store.signal for store in self.signals]
        heard = [e for machine in self.machines for e in machine.heard]
        uses = count_uses([*signals, *following, *heard])
        values |= {at: T.bind(value) for at, value in self._loaded(n, memory).items()}
        for machine in self.machines:
            result = machine.run(emit(machine.heard, values, uses), n, memory)
            if result is not None:
                values[id(machine.result)] = result
        done = emit([*signals, *following], values, uses)
        for store, value in zip(self.signals, done, strict=False):
            if store.target.name in buffers:
                channel = c if store.row is None else store.row
                target = buffers[store.target.name]
                if store.added:
                    value = target[channel, n] + value
                keep_sample(target, value, channel, start, u, unroll, store.every)
        leaves = [value for state in self.states for value in state.leaves]
        return {id(old): new for old, new in zip(leaves, done[len(signals) :], strict=True)}

    def events_used(self) -> bool:
        roots = roots_of(self.states, self.signals, self.machines)
        events = {id(m.result) for m in self.machines if isinstance(m, Counter)}
        return any(id(expr) in events for expr in in_order(roots))
