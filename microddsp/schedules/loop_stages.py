"""A sample loop cut into several, one after another over the same block.

Each has fewer states than the whole, so that they fit the registers; what goes from one to the next
is kept in memory for the block. A counter that has a loop of its own can scan it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from microddsp.relax_ops.expression import Expr, in_order, is_constant, leaf, substitute
from microddsp.relax_ops.scalar_rules import is_truth
from microddsp.schedules.loop_code import Load, Parts, State, Store, roots_of
from microddsp.schedules.loop_memory import Tensor

# Those of a single-precision unit, and how many of them samples and sums take.
_REGISTERS, _AT_WORK = 32, 2
# Memory for what lies between loops, and the shortest block of which several loops are worth it.
_BETWEEN_BYTES, _SHORTEST = 1024, 8
# What is computed again from one value rather than kept beside it.
_AGAIN = {"mul", "add", "sub", "neg", "abs"}


def sections_of(parts: Parts) -> list[int]:
    """How many neighbouring states each section has, where none needs one of a later section; no
    sections if a state hears a machine."""
    results = {id(machine.result) for machine in parts.machines}
    leaves = [value for state in parts.states for value in state.leaves]
    place = {id(value): i for i, value in enumerate(leaves)}
    sizes, start, end = [], 0, 0
    for at, following in enumerate(e for state in parts.states for e in state.following):
        below = {id(expr) for expr in in_order([following])}
        if below & results:
            return []
        end = max([end, at, *(place[i] for i in below if i in place)])
        if at == end:
            sizes.append(at + 1 - start)
            start = end = at + 1
    return sizes


def loops_that_fit(parts: Parts) -> int:
    """As many loops as it takes to keep the states and coefficients of each in registers, as long
    as what lies between them is little memory.

    A loop with more than that loads coefficients or moves states for every sample.
    """
    if parts.samples < _SHORTEST or 4 * parts.samples > _BETWEEN_BYTES:
        return 1
    leaves = sum(len(state.leaves) for state in parts.states)
    below = in_order(roots_of(parts.states, parts.signals, parts.machines))
    tables = {id(value) for value, *_ in parts.tables}
    numbers = {abs(expr.value) for expr in below if is_constant(expr)}
    count = leaves + len(numbers - {0.0, 1.0}) + sum(id(expr) in tables for expr in below)
    return -(-(count + _AT_WORK) // _REGISTERS)


def cut(parts: Parts, sections: Sequence[int], loops: int, apart: bool) -> list[Parts]:
    """The loops that do the same as one: `loops` for the sections, and one more for the machines
    if they are `apart`. What lies between are inputs of all of them, behind those of the whole."""
    count, seen = sum(sections), 0
    stage: dict[int, int] = {}
    leaves = [value for state in parts.states for value in state.leaves]
    for size in sections:
        # a section belongs where its middle is
        mine = min((2 * seen + size) * loops // (2 * count), loops - 1)
        stage |= {id(value): mine for value in leaves[seen : seen + size]}
        seen += size
    last = loops if apart else loops - 1
    stage |= {id(machine.result): last for machine in parts.machines}
    return _Cut(parts, stage, last + 1).made()


class _Cut:
    """`stage` says in which loop states and results of machines are known; all else follows."""

    def __init__(self, parts: Parts, stage: dict[int, int], count: int) -> None:
        self.parts, self.stage, self.count = parts, stage, count
        self.inputs = list(parts.inputs)
        self.tables = {id(value) for value, *_ in parts.tables}
        self.between: dict[int, tuple[Expr, int]] = {}  # values that leave a loop, their tensors

    def made(self) -> list[Parts]:
        # a later loop tells the earlier ones what it needs
        done = [self._loop(at) for at in reversed(range(self.count))][::-1]
        for one in done:
            one.inputs = self.inputs
        return done

    def _loop(self, at: int) -> Parts:
        whole, last = self.parts, at == self.count - 1
        states = [part for state in whole.states for part in self._states(state, at)]
        machines = list(whole.machines) if last else []
        stores = [s for s in whole.signals if max(self._of(s.signal), 0) == at]
        stores += [
            Store(value, self.inputs[index], 1, 0)
            for value, index in self.between.values()
            if self._of(value) == at
        ]
        roots = roots_of(states, stores, machines)
        known, loads = self._brought(roots, at)
        made = iter(substitute(roots, known))
        for state in states:
            state.following = [next(made) for _ in state.following]
        stores = [replace(s, signal=next(made)) for s in stores]
        machines = [m.hearing([next(made) for _ in m.heard]) for m in machines]
        below = {id(expr) for expr in in_order(roots_of(states, stores, machines))}
        return Parts(
            whole.samples,
            self.inputs,
            [load for load in (*whole.loads, *loads) if id(load.value) in below],
            [table for table in whole.tables if id(table[0]) in below],
            states,
            machines,
            stores,
        )

    def _states(self, state: State, at: int) -> list[State]:
        mine = [i for i, value in enumerate(state.leaves) if self.stage[id(value)] == at]
        if not mine:
            return []
        own = slice(mine[0], mine[-1] + 1)
        first = state.first + mine[0]
        return [State(state.source, state.target, state.leaves[own], state.following[own], first)]

    def _brought(self, roots: Sequence[Expr], at: int) -> tuple[dict[int, Expr], list[Load]]:
        """What earlier loops give to the expressions of one."""
        known: dict[int, Expr] = {}
        loads: list[Load] = []
        stack, seen = list(roots), set()
        while stack:
            expr = stack.pop()
            if id(expr) in seen:
                continue
            seen.add(id(expr))
            if 0 <= self._of(expr) < at and not is_truth(expr) and not self._again(expr):
                index = self._kept(expr)
                known[id(expr)] = leaf(f"between{index}")
                loads.append(Load(known[id(expr)], index, False, 0))
            else:
                stack.extend(reversed(expr.args))
        return known, loads

    def _again(self, expr: Expr) -> bool:
        """Whether one value of the earlier loop and numbers give this: then that one is kept."""
        if expr.op not in _AGAIN:
            return False
        values = [arg for arg in expr.args if not is_constant(arg) and id(arg) not in self.tables]
        return len({id(arg) for arg in values}) == 1 and self._of(values[0]) == self._of(expr)

    def _kept(self, expr: Expr) -> int:
        if id(expr) not in self.between:
            self.between[id(expr)] = (expr, len(self.inputs))
            name = f"between{len(self.between)}"
            self.inputs.append(Tensor(name, (1, self.parts.samples), "float32"))
        return self.between[id(expr)][1]

    def _of(self, expr: Expr) -> int:
        """The first loop in which an expression is known; -1 if it depends on no state."""
        for one in in_order([expr]) if id(expr) not in self.stage else ():
            if id(one) not in self.stage:
                self.stage[id(one)] = max((self.stage[id(a)] for a in one.args), default=-1)
        return self.stage[id(expr)]
