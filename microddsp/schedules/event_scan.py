"""An event counter alone in its loop: two scans, one for each state of the machine.

While it is armed only a sample above the threshold matters, and none before the refractory time is
over; while it is not, only one below the release threshold. So the state is where the code is, and
samples in which nothing happens are passed several at a time.

Numbers above zero are compared as the integers that their bits are, which costs no transfer of
flags from a floating-point unit, and no library call where there is none. A NaN may look like an
event then, so what a scan finds is judged again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from microddsp.relax_ops.expression import Expr
from microddsp.schedules.loop_machines import Counter
from microddsp.schedules.scalar_code import Value

# Samples passed at once. A block of fewer is no work for a scan.
TOGETHER = 8


@dataclass(frozen=True, slots=True)
class Scan:
    """`sample(n)` is the counter's signal at sample `n` of the block; `limits` are the values of
    its thresholds, the upper one first; `registers` are the loop's integers."""

    sample: Callable[[Value], Value]
    samples: int
    counter: Counter
    limits: tuple[Value, Value]
    registers: tirx.Buffer

    def emit(self) -> None:
        """The whole block as TIR statements; the registers hold the state before and after."""
        registers, base = self.registers, self.counter.base
        place = T.alloc_buffer((1,), "int32")
        T.buffer_store(place, 0, [0])
        with T.While(place[0] < self.samples):
            with T.If(tirx.NE(registers[base], tirx.IntImm("int32", 0))):
                with T.Then():
                    self._armed(place)
                with T.Else():
                    self._disarmed(place)

    def _armed(self, place: tirx.Buffer) -> None:
        registers, base = self.registers, self.counter.base
        ready = registers[base + 1]
        with T.If(place[0] < ready), T.Then():
            T.buffer_store(place, tirx.Select(ready < self.samples, ready, self.samples), [0])
        high, bits = self.limits[0], _bits(self.counter.thresholds[0])
        self._pass(
            place,
            lambda x: tirx.Not(tirx.GT(x, high)) if bits is None else tirx.LE(_as_bits(x), bits),
        )
        with T.If(place[0] < self.samples), T.Then():
            with T.If(tirx.GT(self.sample(place[0]), high)), T.Then():
                T.buffer_store(registers, registers[base + 2] + 1, [base + 2])
                T.buffer_store(registers, 0, [base])
                T.buffer_store(
                    registers, place[0] + (1 + self.counter.refractory_samples), [base + 1]
                )
            T.buffer_store(place, place[0] + 1, [0])

    def _disarmed(self, place: tirx.Buffer) -> None:
        low, bits = self.limits[1], _bits(self.counter.thresholds[1])
        self._pass(
            place,
            lambda x: tirx.Not(tirx.LT(x, low)) if bits is None else tirx.GE(_as_bits(x), bits),
        )
        with T.If(place[0] < self.samples), T.Then():
            with T.If(tirx.LT(self.sample(place[0]), low)), T.Then():
                T.buffer_store(self.registers, 1, [self.counter.base])
            T.buffer_store(place, place[0] + 1, [0])

    def _pass(self, place: tirx.Buffer, nothing: Callable[[Value], Value]) -> None:
        """Go on to the next sample that is not nothing, or to the end."""
        all_of = [nothing(self.sample(place[0] + u)) for u in range(TOGETHER)]
        inside = place[0] <= self.samples - TOGETHER
        with T.While(tirx.And(inside, reduce(tirx.And, all_of))):
            T.buffer_store(place, place[0] + TOGETHER, [0])
        with T.While(tirx.And(place[0] < self.samples, nothing(self.sample(place[0])))):
            T.buffer_store(place, place[0] + 1, [0])


def _bits(threshold: Expr) -> Value | None:
    """A threshold as an integer, if it is known and not below zero."""
    if threshold.op != "const" or not threshold.value >= 0.0:
        return None
    return tirx.IntImm("int32", int(np.float32(abs(threshold.value)).view("int32")))


def _as_bits(x: Value) -> Value:
    return tirx.call_pure_extern("int32", "microddsp_bits", x)
