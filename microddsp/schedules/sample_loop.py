"""One loop over samples for a run of sample-wise operators, their states in registers.

A `SampleLoop` collects operators as scalar expressions: what leaves one operator enters the next
without touching memory. `build` makes the TIR function around them: channel loop, loading and
storing of states, the loop over samples, unrolled so that states can swap registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from microddsp.relax_ops.expression import Expr, Step, in_order, leaf, substitute, unary
from microddsp.schedules.event_scan import TOGETHER, Scan
from microddsp.schedules.loop_machines import Counter, Line, Machine, Memory
from microddsp.schedules.loop_memory import (
    Tensor,
    element_of,
    keep_sample,
    sample_of,
    store_element,
)
from microddsp.schedules.scalar_code import Value, count_uses, emit
from microddsp.schedules.witnesses import witnesses


@dataclass(slots=True)
class _State:
    source: int  # tensor that holds it before the block
    target: Tensor
    leaves: tuple[Expr, ...]
    following: list[Expr] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Load:
    """Of the loop's channel, or of channel `row`."""

    value: Expr
    index: int
    interleaved: bool
    row: int | None


@dataclass(frozen=True, slots=True)
class _Store:
    """Every so many samples, to the loop's channel or to channel `row`."""

    signal: Expr
    target: Tensor
    every: int
    row: int | None


class SampleLoop:
    """Collects operators over signals of shape (channels, samples), then builds one function."""

    def __init__(self, channels: int, samples: int) -> None:
        self.channels = channels
        self.samples = samples
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.inplace: list[tuple[int, int]] = []
        self._loads: list[_Load] = []
        self._tables: list[tuple[Expr, int, int]] = []  # leaf, tensor, element of the channel
        self._states: list[_State] = []
        self._machines: list[Machine] = []
        self._signals: list[_Store] = []

    def tensor(self, shape: Sequence[int], dtype: str) -> int:
        """Add an input tensor; returns its index among the inputs."""
        self.inputs.append(Tensor(f"in{len(self.inputs)}", tuple(shape), dtype))
        return len(self.inputs) - 1

    def load(self, index: int, *, interleaved: bool = False, row: int | None = None) -> Expr:
        """The sample of input tensor `index` at the loop's channel, or at channel `row`, and time;
        broadcasts size 1."""
        value = leaf(f"load{len(self._loads)}")
        self._loads.append(_Load(value, index, interleaved, row))
        if self.inputs[index].dtype != "float32":
            return unary("to_float", value)
        return value

    def table(self, index: int, elements: Sequence[int]) -> list[Expr]:
        """Values of the loop's channel in tensor `index` (channels, ...), by their places."""
        leaves = [leaf(f"table{index}_{i}") for i in elements]
        self._tables.extend((value, index, i) for value, i in zip(leaves, elements, strict=True))
        return leaves

    def apply(
        self, step: Step, inputs: Sequence[Expr], params: Sequence[Expr], state: int
    ) -> tuple[list[Expr], Tensor]:
        """Run a step on signals; returns its outputs and the tensor of its next state."""
        leaves = tuple(leaf(f"state{state}_{i}") for i in range(len(step.states)))
        known = {
            id(old): new
            for old, new in zip(
                (*step.inputs, *step.params, *step.states), (*inputs, *params, *leaves), strict=True
            )
        }
        done = substitute([*step.outputs, *step.next_states], known)
        target = self._next(state)
        count = len(step.outputs)
        self._states.append(_State(state, target, leaves, done[count:]))
        return done[:count], target

    def count(
        self,
        signal: Expr,
        thresholds: tuple[Expr, Expr],
        refractory_samples: int,
        state: int,
    ) -> tuple[Tensor, Expr, Tensor]:
        """The event counter: returns its count tensor, its 0/1 signal and its next state."""
        counter = Counter(
            signal,
            thresholds,
            refractory_samples,
            self.inputs[state],
            self._next(state),
            Tensor(f"count{state}", (self.channels, 1), "int32"),
            self._integers(),
        )
        self._machines.append(counter)
        return counter.count, counter.result, counter.target

    def delay(
        self, signal: Expr, delay: Expr, line: int, place: int
    ) -> tuple[Expr, Tensor, Tensor]:
        """A delay that a signal drives: returns its signal, its next ring and its next place."""
        ring = Line(
            signal,
            delay,
            self.inputs[line],
            self._next(line),
            self.inputs[place],
            self._next(place),
            self._integers(),
        )
        self._machines.append(ring)
        return ring.result, ring.target, ring.following

    def _integers(self) -> int:
        """How many the machines so far have."""
        return sum(machine.registers for machine in self._machines)

    def _next(self, state: int) -> Tensor:
        source = self.inputs[state]
        return Tensor(f"next{state}", source.shape, source.dtype)

    def store(self, signal: Expr, *, every: int = 1) -> Tensor:
        """Write a signal to memory, or its samples 0, `every`, ...; returns the output tensor."""
        target = self._output(self.channels, every)
        self._signals.append(_Store(signal, target, every, None))
        return target

    def store_rows(self, signals: Sequence[Expr]) -> Tensor:
        """Write signals to memory as the channels of one; returns the output tensor."""
        target = self._output(len(signals), 1)
        self._signals.extend(_Store(signal, target, 1, i) for i, signal in enumerate(signals))
        return target

    def _output(self, channels: int, every: int) -> Tensor:
        return Tensor(f"out{len(self._signals)}", (channels, self.samples // every), "float32")

    def build(self, name: str, outputs: Sequence[Tensor], *, unroll: int | None) -> tirx.PrimFunc:
        """The TIR function: parameters are the inputs, then `outputs` in the given order.

        `unroll` samples share a pass of the loop; None chooses.
        """
        unroll = min(self._unroll() if unroll is None else unroll, self.samples)
        grown = [t for machine in self._machines for t in machine.grown]
        outputs = [*outputs, *(t for t in grown if t not in outputs)]
        places = {t.name: i for i, t in enumerate([*self.inputs, *outputs])}
        held = [(s.target, self.inputs[s.source]) for s in self._states]
        held += [pair for machine in self._machines for pair in machine.held]
        pairs = [
            (target, [places[target.name], places[source.name]])
            for target, source in held
            if target.name in places
        ]
        with IRBuilder() as builder, T.prim_func():
            T.func_name(name)
            inplace = [pair for _, pair in pairs]
            starting = [pair for target, pair in pairs if target in grown]
            T.func_attr(
                {
                    "tirx.noalias": True,
                    "microddsp.inplace": inplace,
                    "microddsp.grown": starting,
                    "microddsp.witnesses": self._witnesses(places),
                }
            )
            buffers = {
                t.name: T.arg(t.name, tirx.decl_buffer(t.shape, t.dtype, t.name))
                for t in [*self.inputs, *outputs]
            }
            if self.channels == 1:
                self._channel(0, buffers, unroll)
            else:
                with T.serial(0, self.channels) as c:
                    self._channel(c, buffers, unroll)
        return builder.get()

    def _witnesses(self, places: dict[str, int]) -> list[list[int]]:
        """For each next state: its place among the parameters, then the elements of a channel that
        tell whether a state of this loop is not finite."""
        leaves = [value for state in self._states for value in state.leaves]
        following = [expr for state in self._states for expr in state.following]
        brought = {id(load.value) for load in self._loads}
        brought |= {id(machine.result) for machine in self._machines}
        chosen = set(witnesses(leaves, following, brought))
        rows, at = [], 0
        for state in self._states:
            own = [i for i in range(len(state.leaves)) if at + i in chosen]
            at += len(state.leaves)
            if state.target.name in places:
                rows.append([places[state.target.name], *own])
        return rows

    def _unroll(self) -> int:
        """Samples a pass. A multiply-accumulate overwrites its addend, so states wander from
        register to register; after a few samples they are where they were, and nothing is moved.
        """
        kept = {store.every for store in self._signals if store.every > 1}
        whole = [u for u in (8, 7, 6, 5, 4) if self.samples % u == 0]
        even = [u for u in whole if all(u % k == 0 or k % u == 0 for k in kept)]
        return (even or whole or [4])[0]

    def _channel(self, c: Value | int, buffers: dict[str, tirx.Buffer], unroll: int) -> None:
        floats = sum(len(s.leaves) for s in self._states)
        fixed: dict[int, Value] = {
            id(value): T.bind(element_of(buffers, self.inputs[index], c, i))
            for value, index, i in self._tables
        }
        registers: tirx.Buffer = T.alloc_buffer((floats,), "float32") if floats else None
        count = self._integers()
        ints: tirx.Buffer = T.alloc_buffer((count,), "int32") if count else None
        event = T.alloc_buffer((1,), "float32") if self._events_used() else None
        memory = Memory(c, buffers, ints, event)
        leaves = [value for state in self._states for value in state.leaves]
        at = 0
        for state in self._states:
            for i in range(len(state.leaves)):
                T.buffer_store(
                    registers, element_of(buffers, self.inputs[state.source], c, i), [at + i]
                )
            at += len(state.leaves)
        for machine in self._machines:
            machine.load(memory)

        def body(start: Value | int, count: int) -> None:
            carried = {id(v): T.bind(registers[i]) for i, v in enumerate(leaves)}
            for u in range(count):
                place = (start, u, count)
                carried = self._sample(place, fixed, carried, memory)
            for i, value in enumerate(leaves):
                T.buffer_store(registers, carried[id(value)], [i])

        passes, left = divmod(self.samples, unroll)
        scanned = event is None and self._only_counts(buffers)
        if scanned:
            for machine in self._machines:
                self._scan(machine, fixed, memory)
        elif passes == 1:
            body(0, unroll)
        else:
            with T.serial(0, passes) as m:
                body(m * unroll, unroll)
        if left and not scanned:
            body(passes * unroll, left)
        at = 0
        for state in self._states:
            for i in range(len(state.leaves)):
                if state.target.name in buffers:
                    store_element(buffers, state.target, c, i, registers[at + i])
            at += len(state.leaves)
        for machine in self._machines:
            machine.store(memory, self.samples)

    def _only_counts(self, buffers: dict[str, tirx.Buffer]) -> bool:
        """No state but counters, no signal put out, and signals that are quick to compute again."""
        if self.samples < TOGETHER or self._states or not self._machines:
            return False
        if not all(isinstance(machine, Counter) for machine in self._machines):
            return False
        if any(store.target.name in buffers for store in self._signals):
            return False
        heard = [machine.heard[0] for machine in self._machines]
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
        for load in self._loads:
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
        following = [expr for state in self._states for expr in state.following]
        signals = [store.signal for store in self._signals]
        heard = [e for machine in self._machines for e in machine.heard]
        uses = count_uses([*signals, *following, *heard])
        values |= {at: T.bind(value) for at, value in self._loaded(n, memory).items()}
        for machine in self._machines:
            result = machine.run(emit(machine.heard, values, uses), n, memory)
            if result is not None:
                values[id(machine.result)] = result
        done = emit([*signals, *following], values, uses)
        for store, value in zip(self._signals, done, strict=False):
            if store.target.name in buffers:
                channel = c if store.row is None else store.row
                target = buffers[store.target.name]
                keep_sample(target, value, channel, start, u, unroll, store.every)
        leaves = [value for state in self._states for value in state.leaves]
        return {id(old): new for old, new in zip(leaves, done[len(signals) :], strict=True)}

    def _events_used(self) -> bool:
        roots = [store.signal for store in self._signals]
        roots += [expr for state in self._states for expr in state.following]
        roots += [expr for machine in self._machines for expr in machine.heard]
        events = {id(m.result) for m in self._machines if isinstance(m, Counter)}
        return any(id(expr) in events for expr in in_order(roots))
