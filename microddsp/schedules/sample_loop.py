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

from microddsp.relax_ops.event_counter import (
    emit_event_counter,
    load_registers,
    store_registers,
)
from microddsp.relax_ops.expression import Expr, Step, in_order, leaf, substitute, unary
from microddsp.schedules.event_scan import TOGETHER, Scan
from microddsp.schedules.loop_memory import (
    Tensor,
    element_of,
    keep_sample,
    sample_of,
    store_element,
)
from microddsp.schedules.scalar_code import Value, count_uses, emit, float32
from microddsp.schedules.witnesses import witnesses


@dataclass(slots=True)
class _State:
    source: int  # tensor that holds it before the block
    target: Tensor
    leaves: tuple[Expr, ...]
    following: list[Expr] = field(default_factory=list)


@dataclass(slots=True)
class _Counter:
    source: int
    target: Tensor
    count: Tensor
    signal: Expr
    thresholds: tuple[Expr, Expr]
    refractory_samples: int
    event: Expr


class SampleLoop:
    """Collects operators over signals of shape (channels, samples), then builds one function."""

    def __init__(self, channels: int, samples: int) -> None:
        self.channels = channels
        self.samples = samples
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.inplace: list[tuple[int, int]] = []
        self._loads: list[tuple[Expr, int, bool]] = []  # leaf, tensor, interleaved
        self._tables: list[tuple[Expr, int, int]] = []  # leaf, tensor, element of the channel
        self._states: list[_State] = []
        self._counters: list[_Counter] = []
        self._signals: list[tuple[Expr, Tensor, int]] = []  # written every so many samples
        self._order: list[_Counter] = []

    def tensor(self, shape: Sequence[int], dtype: str) -> int:
        """Add an input tensor; returns its index among the inputs."""
        self.inputs.append(Tensor(f"in{len(self.inputs)}", tuple(shape), dtype))
        return len(self.inputs) - 1

    def load(self, index: int, *, interleaved: bool = False) -> Expr:
        """The sample of input tensor `index` at the loop's channel and time; broadcasts size 1."""
        value = leaf(f"load{len(self._loads)}")
        self._loads.append((value, index, interleaved))
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
        source = self.inputs[state]
        leaves = tuple(leaf(f"state{state}_{i}") for i in range(len(step.states)))
        known = {
            id(old): new
            for old, new in zip(
                (*step.inputs, *step.params, *step.states), (*inputs, *params, *leaves), strict=True
            )
        }
        done = substitute([*step.outputs, *step.next_states], known)
        target = Tensor(f"next{state}", source.shape, source.dtype)
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
        source = self.inputs[state]
        counter = _Counter(
            state,
            Tensor(f"next{state}", source.shape, source.dtype),
            Tensor(f"count{state}", (self.channels, 1), "int32"),
            signal,
            thresholds,
            refractory_samples,
            leaf(f"event{state}"),
        )
        self._counters.append(counter)
        return counter.count, counter.event, counter.target

    def store(self, signal: Expr, *, every: int = 1) -> Tensor:
        """Write a signal to memory, or its samples 0, `every`, ...; returns the output tensor."""
        shape = (self.channels, self.samples // every)
        target = Tensor(f"out{len(self._signals)}", shape, "float32")
        self._signals.append((signal, target, every))
        return target

    def build(self, name: str, outputs: Sequence[Tensor], *, unroll: int | None) -> tirx.PrimFunc:
        """The TIR function: parameters are the inputs, then `outputs` in the given order.

        `unroll` samples share a pass of the loop; None chooses.
        """
        unroll = min(self._unroll() if unroll is None else unroll, self.samples)
        names = [t.name for t in outputs]
        pairs = []
        held = [(s.target, s.source) for s in self._states]
        held += [(k.target, k.source) for k in self._counters]
        for target, source in held:
            if target.name in names:
                pairs.append([len(self.inputs) + names.index(target.name), source])
        with IRBuilder() as builder, T.prim_func():
            T.func_name(name)
            T.func_attr(
                {
                    "tirx.noalias": True,
                    "microddsp.inplace": pairs,
                    "microddsp.witnesses": self._witnesses(names),
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

    def _witnesses(self, names: Sequence[str]) -> list[list[int]]:
        """For each next state: its place among the parameters, then the elements of a channel that
        tell whether a state of this loop is not finite."""
        leaves = [value for state in self._states for value in state.leaves]
        following = [expr for state in self._states for expr in state.following]
        chosen = set(witnesses(leaves, following, {id(value) for value, *_ in self._loads}))
        rows, at = [], 0
        for state in self._states:
            own = [i for i in range(len(state.leaves)) if at + i in chosen]
            at += len(state.leaves)
            if state.target.name in names:
                rows.append([len(self.inputs) + names.index(state.target.name), *own])
        return rows

    def _unroll(self) -> int:
        """Samples a pass. A multiply-accumulate overwrites its addend, so states wander from
        register to register; after a few samples they are where they were, and nothing is moved.
        """
        kept = {every for _, _, every in self._signals if every > 1}
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
        ints: tirx.Buffer = (
            T.alloc_buffer((3 * len(self._counters),), "int32") if self._counters else None
        )
        event = T.alloc_buffer((1,), "float32") if self._events_used(buffers) else None
        leaves = [value for state in self._states for value in state.leaves]
        at = 0
        for state in self._states:
            for i in range(len(state.leaves)):
                T.buffer_store(
                    registers, element_of(buffers, self.inputs[state.source], c, i), [at + i]
                )
            at += len(state.leaves)
        for k, counter in enumerate(self._counters):
            load_registers(buffers[self.inputs[counter.source].name], c, ints, 3 * k)

        def body(start: Value | int, count: int) -> None:
            carried = {id(v): T.bind(registers[i]) for i, v in enumerate(leaves)}
            for u in range(count):
                place = (start, u, count)
                carried = self._sample(c, place, fixed, carried, buffers, ints, event)
            for i, value in enumerate(leaves):
                T.buffer_store(registers, carried[id(value)], [i])

        passes, left = divmod(self.samples, unroll)
        scanned = event is None and self._only_counts(buffers)
        if scanned:
            for k in range(len(self._counters)):
                self._scan(c, k, fixed, buffers, ints)
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
        for k, counter in enumerate(self._counters):
            if counter.target.name in buffers:
                store_registers(buffers[counter.target.name], c, ints, 3 * k, self.samples)
            if counter.count.name in buffers:
                store_element(buffers, counter.count, c, 0, ints[3 * k + 2])

    def _only_counts(self, buffers: dict[str, tirx.Buffer]) -> bool:
        """No state but counters, no signal put out, and signals that are quick to compute again."""
        if self.samples < TOGETHER or self._states or not self._counters:
            return False
        if any(target.name in buffers for _, target, _ in self._signals):
            return False
        uses = count_uses([counter.signal for counter in self._counters])
        roots = {id(counter.signal) for counter in self._counters}
        return all(used == 1 or which in roots for which, used in uses.items())

    def _scan(
        self,
        c: Value | int,
        k: int,
        fixed: dict[int, Value],
        buffers: dict[str, tirx.Buffer],
        ints: tirx.Buffer,
    ) -> None:
        counter = self._counters[k]
        high, low = emit(counter.thresholds, dict(fixed), count_uses(counter.thresholds))

        def sample(n: Value) -> Value:
            values = dict(fixed)
            for value, index, interleaved in self._loads:
                values[id(value)] = sample_of(buffers, self.inputs[index], c, n, interleaved)
            # in its place, not in a local: part of a condition
            once = {id(expr): 1 for expr in in_order([counter.signal])}
            return emit([counter.signal], values, once)[0]

        refractory = counter.refractory_samples
        limits = (high, low)
        Scan(sample, self.samples, counter.thresholds, limits, refractory, ints, 3 * k).emit()

    def _sample(
        self,
        c: Value | int,
        place: tuple[Value | int, int, int],
        fixed: dict[int, Value],
        carried: dict[int, Value],
        buffers: dict[str, tirx.Buffer],
        ints: tirx.Buffer | None,
        event: tirx.Buffer | None,
    ) -> dict[int, Value]:
        start, u, unroll = place  # sample u of a pass of so many, which starts at `start`
        n = start + u
        values = dict(fixed) | carried
        following = [expr for state in self._states for expr in state.following]
        signals = [signal for signal, *_ in self._signals]
        heard = [e for k in self._counters for e in (k.signal, *k.thresholds)]
        uses = count_uses([*signals, *following, *heard])
        for value, index, interleaved in self._loads:
            values[id(value)] = T.bind(sample_of(buffers, self.inputs[index], c, n, interleaved))
        for k, counter in enumerate(self._counters):
            x, high, low = emit([counter.signal, *counter.thresholds], values, uses)
            if event is not None:
                T.buffer_store(event, float32(0.0), [0])
            emit_event_counter(
                x,
                n,
                high,
                low,
                counter.refractory_samples,
                ints,
                3 * k,
                None if event is None else (event, 0),
            )
            if event is not None:
                values[id(counter.event)] = T.bind(event[0])
        done = emit([*signals, *following], values, uses)
        for (_, target, every), value in zip(self._signals, done, strict=False):
            if target.name in buffers:
                keep_sample(buffers[target.name], value, c, start, u, unroll, every)
        leaves = [value for state in self._states for value in state.leaves]
        return {id(old): new for old, new in zip(leaves, done[len(signals) :], strict=True)}

    def _events_used(self, buffers: dict[str, tirx.Buffer]) -> bool:
        roots = [signal for signal, *_ in self._signals]
        roots += [expr for state in self._states for expr in state.following]
        roots += [counter.signal for counter in self._counters]
        events = {id(counter.event) for counter in self._counters}
        return any(id(expr) in events for expr in in_order(roots))
