"""One loop over samples for a run of sample-wise operators, their states in registers.

A `SampleLoop` collects operators as scalar expressions: what leaves one operator enters the next
without touching memory. `build` makes the TIR function around them: channel loop, loading and
storing of states, the loop over samples, unrolled so that states can swap registers.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from microddsp.relax_ops.choices import choose
from microddsp.relax_ops.convolution_kernel import loop
from microddsp.relax_ops.expression import Expr, Step, leaf, substitute, unary
from microddsp.schedules.loop_code import Load, Parts, State, Store
from microddsp.schedules.loop_machines import Counter, Line
from microddsp.schedules.loop_memory import (
    Tensor,
)
from microddsp.schedules.loop_stages import cut, loops_that_fit, sections_of
from microddsp.schedules.witnesses import witnesses

# Samples a pass that are worth a try.
_UNROLLS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16)
# Loops that one may become.
MOST_LOOPS = 4


@dataclass(frozen=True, slots=True)
class LoopShape:
    """Samples a pass, and loops that one is cut into; None: chosen."""

    unroll: int | None = None
    loops: int | None = None


USUAL = LoopShape()


class SampleLoop:
    """Collects operators over signals of shape (channels, samples), then builds one function."""

    def __init__(self, channels: int, samples: int) -> None:
        self.channels = channels
        self.samples = samples
        self._parts = Parts(samples)
        self.inputs = self._parts.inputs

    def tensor(self, shape: Sequence[int], dtype: str) -> int:
        """Add an input tensor; returns its index among the inputs."""
        self.inputs.append(Tensor(f"in{len(self.inputs)}", tuple(shape), dtype))
        return len(self.inputs) - 1

    def load(self, index: int, *, interleaved: bool = False, row: int | None = None) -> Expr:
        """The sample of input tensor `index` at the loop's channel, or at channel `row`, and time;
        broadcasts size 1."""
        value = leaf(f"load{len(self._parts.loads)}")
        self._parts.loads.append(Load(value, index, interleaved, row))
        if self.inputs[index].dtype != "float32":
            return unary("to_float", value)
        return value

    def table(self, index: int, elements: Sequence[int]) -> list[Expr]:
        """Values of the loop's channel in tensor `index` (channels, ...), by their places."""
        leaves = [leaf(f"table{index}_{i}") for i in elements]
        self._parts.tables.extend(
            (value, index, i) for value, i in zip(leaves, elements, strict=True)
        )
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
        self._parts.states.append(State(state, target, leaves, done[count:]))
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
            self._parts.integers(),
        )
        self._parts.machines.append(counter)
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
            self._parts.integers(),
        )
        self._parts.machines.append(ring)
        return ring.result, ring.target, ring.following

    def _next(self, state: int) -> Tensor:
        source = self.inputs[state]
        return Tensor(f"next{state}", source.shape, source.dtype)

    def store(self, signal: Expr, *, every: int = 1) -> Tensor:
        """Write a signal to memory, or its samples 0, `every`, ...; returns the output tensor."""
        target = self._output(self.channels, every)
        self._parts.signals.append(Store(signal, target, every, None))
        return target

    def store_rows(self, signals: Sequence[Expr]) -> Tensor:
        """Write signals to memory as the channels of one; returns the output tensor."""
        target = self._output(len(signals), 1)
        self._parts.signals.extend(Store(signal, target, 1, i) for i, signal in enumerate(signals))
        return target

    def store_sum(self, signal: Expr) -> Tensor:
        """Write the sum of a signal's channels; returns the output tensor."""
        target = self._output(1, 1)
        self._parts.signals.append(Store(signal, target, 1, 0, added=True))
        return target

    def _output(self, channels: int, every: int) -> Tensor:
        return Tensor(
            f"out{len(self._parts.signals)}", (channels, self.samples // every), "float32"
        )

    def build(self, name: str, outputs: Sequence[Tensor], shape: LoopShape) -> tirx.PrimFunc:
        """The TIR function: parameters are the inputs, then `outputs` in the given order."""
        unroll = shape.unroll
        if unroll is None:
            tried = [u for u in _UNROLLS if u <= self.samples]
            unroll = choose("unroll", tried, min(self._unroll(), self.samples))
        unroll = min(unroll, self.samples)
        grown = [t for machine in self._parts.machines for t in machine.grown]
        outputs = [*outputs, *(t for t in grown if t not in outputs)]
        places = {t.name: i for i, t in enumerate([*self.inputs, *outputs])}
        held = [(s.target, self.inputs[s.source]) for s in self._parts.states]
        held += [pair for machine in self._parts.machines for pair in machine.held]
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
            for store in self._parts.signals:
                if store.added and store.target.name in buffers:
                    with T.serial(0, self.samples) as n:
                        T.buffer_store(buffers[store.target.name], T.float32(0.0), [0, n])
            loops = self._loops(buffers, shape.loops)
            for between in loops[0].inputs[len(self.inputs) :]:
                buffers[between.name] = T.alloc_buffer(between.shape, between.dtype)
            with loop(self.channels) as c:
                for part in loops:
                    part.emit(c, buffers, unroll)
        return builder.get()

    def _loops(self, wanted: Container[str], given: int | None) -> list[Parts]:
        """One loop, or several one after another; `given` many if that is a number."""
        parts = self._parts
        if parts.only_counts(wanted):
            parts.scan = choose("counter", ("scan", "dense"), "scan") == "scan"
            return [parts]
        if any(store.added for store in parts.signals):
            return [parts]  # sums over channels are made by one loop
        sections = sections_of(parts)
        most = min(len(sections), MOST_LOOPS)
        count = 1 if given is None or most < 2 else min(given, most)
        if given is None and most > 1:
            count = int(choose("loops", range(1, most + 1), min(loops_that_fit(parts), most)))
        alone = bool(sections) and all(isinstance(m, Counter) for m in parts.machines)
        apart = (
            alone
            and bool(parts.machines)
            and not parts.events_used()
            and choose("counter", ("dense", "scan"), "dense") == "scan"
        )
        return cut(parts, sections, count, apart) if count > 1 or apart else [parts]

    def _witnesses(self, places: dict[str, int]) -> list[list[int]]:
        """For each next state: its place among the parameters, then the elements of a channel that
        tell whether a state of this loop is not finite."""
        leaves = [value for state in self._parts.states for value in state.leaves]
        following = [expr for state in self._parts.states for expr in state.following]
        brought = {id(load.value) for load in self._parts.loads}
        brought |= {id(machine.result) for machine in self._parts.machines}
        chosen = set(witnesses(leaves, following, brought))
        rows, at = [], 0
        for state in self._parts.states:
            own = [i for i in range(len(state.leaves)) if at + i in chosen]
            at += len(state.leaves)
            if state.target.name in places:
                rows.append([places[state.target.name], *own])
        return rows

    def _unroll(self) -> int:
        """Samples a pass. A multiply-accumulate overwrites its addend, so states wander from
        register to register; after a few samples they are where they were, and nothing is moved.
        """
        kept = {store.every for store in self._parts.signals if store.every > 1}
        whole = [u for u in (8, 7, 6, 5, 4) if self.samples % u == 0]
        even = [u for u in whole if all(u % k == 0 or k % u == 0 for k in kept)]
        return (even or whole or [4])[0]
