"""When a kernel reads and writes each element of its parameters: for sharing their memory.

Kernels are loops with constant bounds: the order of their accesses is computed for every element,
not guessed. What cannot be computed (an index read from memory) counts as every element.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Op

from microddsp.relax_ops.copy import copied

# Points of a loop nest above which a kernel is not looked into.
MAX_POINTS = 1 << 22

_BINARY = {
    tirx.Add: np.add,
    tirx.Sub: np.subtract,
    tirx.Mul: np.multiply,
    tirx.FloorDiv: np.floor_divide,
    tirx.FloorMod: np.mod,
    tirx.Min: np.minimum,
    tirx.Max: np.maximum,
}
# What gives away an address: who accesses it is not seen then.
_ADDRESSES = ("tirx.address_of", "tirx.tvm_access_ptr", "tirx.call_packed")

Bound = dict[tvm.ir.Var, tvm.ir.Expr]


class _Unclear(Exception):
    """The kernel does what this analysis does not follow."""


@dataclass(frozen=True, slots=True)
class Accesses:
    """`spans`: first and last of the kernel's `statements` that touch each parameter; `last_use`
    and `first_write` tell for each element of each parameter when that happens."""

    statements: int
    spans: tuple[tuple[int, int], ...]
    last_use: tuple[np.ndarray, ...]
    first_write: tuple[np.ndarray, ...]

    def gives_way(self, old: int, new: int) -> bool:
        """Whether parameter `new` may lie where `old` lies: each element is used for the last
        time before that place is written for the first time."""
        count = min(len(self.last_use[old]), len(self.first_write[new]))
        return bool((self.last_use[old][:count] < self.first_write[new][:count]).all())


@dataclass(frozen=True, slots=True, eq=False)
class _Loop:
    var: tvm.ir.Var
    begin: int
    extent: int
    step: int  # time of one pass


def accesses_of(
    body: tirx.Stmt, pointers: Sequence[tvm.ir.Var], elements: Sequence[int]
) -> Accesses | None:
    """The accesses of a lowered kernel to its pointer parameters; None if they are not clear."""
    try:
        return _Walk(pointers, elements).run(body)
    except _Unclear:
        return None


class _Walk:
    def __init__(self, pointers: Sequence[tvm.ir.Var], elements: Sequence[int]) -> None:
        self.index = {pointer: i for i, pointer in enumerate(pointers)}
        self.buffers: dict[tirx.Buffer, int | None] = {}  # None: the kernel's own memory
        self.bound: dict[tvm.ir.Var, tvm.ir.Expr] = {}
        self.last_use = [np.full(n, -1, np.int64) for n in elements]
        self.first_write = [np.full(n, np.iinfo(np.int64).max, np.int64) for n in elements]
        self.touched: set[int] = set()

    def run(self, body: tirx.Stmt) -> Accesses:
        statements = _flat(body)
        spans: list[tuple[int, int] | None] = [None] * len(self.index)
        now = 0
        for at, statement in enumerate(statements):
            self.touched = set()
            self._visit(statement, now, ())
            now += _duration(statement)
            for i in self.touched:
                spans[i] = (spans[i][0] if spans[i] else at, at)  # type: ignore[index]
        whole = (0, max(len(statements) - 1, 0))
        return Accesses(
            max(len(statements), 1),
            tuple(span or whole for span in spans),
            tuple(self.last_use),
            tuple(self.first_write),
        )

    def _visit(self, stmt: tirx.Stmt, now: int, loops: tuple[_Loop, ...]) -> None:
        if isinstance(stmt, tirx.SeqStmt):
            for item in stmt.seq:
                self._visit(item, now, loops)
                now += _duration(item)
        elif isinstance(stmt, tirx.For):
            loop = _Loop(stmt.loop_var, _int(stmt.min), _int(stmt.extent), _duration(stmt.body))
            if loop.extent > 0:
                self._visit(stmt.body, now, (*loops, loop))
        elif isinstance(stmt, tirx.IfThenElse):
            self._reads(stmt.condition, now, loops)
            self._visit(stmt.then_case, now, loops)
            if stmt.else_case is not None:
                self._visit(stmt.else_case, now, loops)
        elif isinstance(stmt, tirx.BufferStore):
            for part in (*stmt.indices, stmt.value):
                self._reads(part, now, loops)
            self._note(stmt.buffer, stmt.indices, now + 1, loops, write=True)
        elif isinstance(stmt, tirx.DeclBuffer):
            self._declare(stmt)
        elif isinstance(stmt, tirx.Bind):
            self._reads(stmt.value, now, loops)
            self.bound[stmt.var] = stmt.value
        elif isinstance(stmt, tirx.Evaluate):
            places = copied(stmt.value)
            if places is None:
                self._reads(stmt.value, now, loops)
            else:
                self._copy(*places, now, loops)
        elif isinstance(stmt, tirx.AllocBuffer):
            self.buffers[stmt.buffer] = None
        else:
            raise _Unclear

    def _declare(self, stmt: tirx.DeclBuffer) -> None:
        """A buffer is a parameter under another name, or the kernel's own memory."""
        behind: set[int | None] = set()

        def look(var: tvm.ir.Var) -> None:
            if var in self.index:
                behind.add(self.index[var])
            if var in self.buffers:
                behind.add(self.buffers[var])

        tvm_ffi.structural_walk(stmt.data, (tvm.ir.Var, look))
        if len(behind) != 1:
            raise _Unclear
        (self.buffers[stmt.buffer],) = behind

    def _reads(self, expr: tvm.ir.Expr, now: int, loops: tuple[_Loop, ...]) -> None:
        loads: list[tvm.ir.TensorLoad] = []
        hidden: list[tvm.ir.Call] = []  # an error does not find its way out of the walk

        def look(call: tvm.ir.Call) -> None:
            if isinstance(call.op, Op) and call.op.name in _ADDRESSES:
                hidden.append(call)

        tvm_ffi.structural_walk(expr, [(tvm.ir.TensorLoad, loads.append), (tvm.ir.Call, look)])
        if hidden:
            raise _Unclear
        for load in loads:
            self._note(load.source, load.indices, now, loops, write=False)

    def _copy(
        self,
        target: tvm.ir.TensorLoad,
        source: tvm.ir.TensorLoad,
        count: int,
        now: int,
        loops: tuple[_Loop, ...],
    ) -> None:
        """Numbers copied in some order: as if all were written first, so that none may overlap."""
        for i in range(count):
            self._note(target.source, [target.indices[0] + i], now, loops, write=True)
            self._note(source.source, [source.indices[0] + i], now + 1, loops, write=False)

    def _note(
        self,
        buffer: tirx.Buffer,
        indices: Sequence[tvm.ir.Expr],
        now: int,
        loops: tuple[_Loop, ...],
        *,
        write: bool,
    ) -> None:
        if buffer not in self.buffers:
            raise _Unclear
        parameter = self.buffers[buffer]
        if parameter is None:
            return
        self.touched.add(parameter)
        try:
            used = _variables(indices[0], self.bound)
            inner = [loop for loop in loops if loop.var in used]
            where = _evaluate(indices[0], self.bound, _grid(inner))
        except _Unclear:
            inner, where = [], np.arange(len(self.last_use[parameter]))
        # A loop that does not move the place accesses it in its first and in its last pass.
        more = sum((loop.extent - 1) * loop.step for loop in loops if loop not in inner)
        moments = now + sum(
            (grid - loop.begin) * loop.step
            for loop, grid in zip(inner, _grid(inner).values(), strict=True)
        )
        where, first = np.broadcast_arrays(where, np.asarray(moments, np.int64))
        last = first + more
        # A guarded access may be computed outside: it does not happen there.
        inside = (where >= 0) & (where < len(self.last_use[parameter]))
        np.maximum.at(self.last_use[parameter], where[inside], last[inside])
        if write:
            np.minimum.at(self.first_write[parameter], where[inside], first[inside])


def _flat(stmt: tirx.Stmt) -> list[tirx.Stmt]:
    if isinstance(stmt, tirx.SeqStmt):
        return [inner for item in stmt.seq for inner in _flat(item)]
    return [stmt]


def _duration(stmt: tirx.Stmt) -> int:
    """Moments that a statement takes: even ones read, odd ones write."""
    if isinstance(stmt, tirx.SeqStmt):
        return sum(map(_duration, stmt.seq))
    if isinstance(stmt, tirx.For):
        return _int(stmt.extent) * _duration(stmt.body)
    if isinstance(stmt, tirx.IfThenElse):
        other = _duration(stmt.else_case) if stmt.else_case is not None else 0
        return max(_duration(stmt.then_case), other)
    return 2


def _int(expr: tvm.ir.Expr) -> int:
    if not isinstance(expr, tirx.IntImm):
        raise _Unclear
    return int(expr.value)


def _grid(loops: Sequence[_Loop]) -> dict[tvm.ir.Var, np.ndarray]:
    """Values of the loop variables, one axis each."""
    if math.prod(loop.extent for loop in loops) > MAX_POINTS:
        raise _Unclear
    axes = [np.arange(loop.begin, loop.begin + loop.extent) for loop in loops]
    return {
        loop.var: axis.reshape([-1 if i == k else 1 for k in range(len(loops))])
        for i, (loop, axis) in enumerate(zip(loops, axes, strict=True))
    }


def _variables(expr: tvm.ir.Expr, bound: Bound) -> set[tvm.ir.Var]:
    found: set[tvm.ir.Var] = set()
    seen: set[tvm.ir.Var] = set()  # a value is used many times: each is looked into once

    def look(var: tvm.ir.Var) -> None:
        if var not in bound:
            found.add(var)
        elif var not in seen:
            seen.add(var)
            tvm_ffi.structural_walk(bound[var], (tvm.ir.Var, look))

    tvm_ffi.structural_walk(expr, (tvm.ir.Var, look))
    return found


def _evaluate(expr: tvm.ir.Expr, bound: Bound, grid: dict[tvm.ir.Var, np.ndarray]) -> np.ndarray:
    """An index at every point of the grid."""
    if isinstance(expr, tirx.IntImm):
        return np.asarray(int(expr.value))
    if isinstance(expr, tvm.ir.Var):
        if expr in bound:
            return _evaluate(bound[expr], bound, grid)
        if expr in grid:
            return grid[expr]
        raise _Unclear
    if isinstance(expr, tirx.Cast):
        return _evaluate(expr.value, bound, grid)
    rule = _BINARY.get(type(expr))
    if rule is None:
        raise _Unclear
    a, b = (_evaluate(part, bound, grid) for part in (expr.a, expr.b))
    if rule in (np.floor_divide, np.mod) and not np.all(b):
        raise _Unclear
    return np.asarray(rule(a, b))
