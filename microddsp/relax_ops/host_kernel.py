"""Training kernels for this computer: a step and its adjoint as TIR.

Rows (batch times channels) run side by side in vector lanes, time runs in tiles: a tile is
turned so that lanes are contiguous, computed sample by sample, and turned back. A single row has
a kernel of its own with one lane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from microddsp.relax_ops.adjoint import Adjoint, reads_output
from microddsp.relax_ops.expression import COMPARISONS, LOGIC, Expr, Step, in_order

TILE = 8


class _Kernel:
    """Shared parts of the two kernels: buffers, tiles, lane vectors."""

    def __init__(self, lanes: int, dtype: str) -> None:
        self.lanes, self.dtype = lanes, dtype
        self.rows = tirx.Var("rows", "int64")
        self.samples = tirx.Var("samples", "int64")

    def rows_of(self, name: str, columns: Any) -> tirx.Buffer:
        return T.arg(name, tirx.decl_buffer((self.rows, columns), self.dtype, name))

    def signals(self, name: str, count: int) -> list[tirx.Buffer]:
        return [self.rows_of(f"{name}{i}", self.samples) for i in range(count)]

    def tiles(self, signals: Sequence[tirx.Buffer]) -> list[tirx.Buffer]:
        return [self.local(TILE) for _ in signals]

    def tape_of(self, count: int) -> tirx.Buffer:
        # nobody else reads it, so it stays as lanes have it and is never turned
        shape = (tirx.floordiv(self.rows, self.lanes), self.samples, count, self.lanes)
        return T.arg("tape", tirx.decl_buffer(shape, self.dtype, "tape"))

    def local(self, *shape: int) -> tirx.Buffer:
        return T.alloc_buffer((*(max(n, 1) for n in shape), self.lanes), self.dtype, scope="local")

    def each_lane(self, body: Callable[[Any], None]) -> None:
        if self.lanes == 1:
            body(0)
        else:
            with T.vectorized(0, self.lanes) as lane:
                body(lane)

    # Once per block of rows, so plain loops: unrolled ones took longer to build, not less to run.
    def load_columns(self, local: tirx.Buffer, source: tirx.Buffer, row: Any, count: int) -> None:
        with T.serial(0, count) as i, T.serial(0, self.lanes) as lane:
            T.buffer_store(local, source[row + lane, i], [i, lane])

    def store_columns(self, target: tirx.Buffer, local: tirx.Buffer, row: Any, count: int) -> None:
        with T.serial(0, count) as i, T.serial(0, self.lanes) as lane:
            T.buffer_store(target, local[i, lane], [row + lane, i])

    def read_tile(self, local: tirx.Buffer, source: tirx.Buffer, row: Any, start: Any) -> None:
        """`local[t, lane]` from `source[row + lane, start + t]`."""

        def move(lane: Any, t: Any) -> None:
            T.buffer_store(local, source[row + lane, start + t], [t, lane])

        self._tile(start, move)

    def read_tiles(
        self, tiles: Sequence[tirx.Buffer], signals: Sequence[tirx.Buffer], row: Any, start: Any
    ) -> None:
        for tile, signal in zip(tiles, signals, strict=True):
            self.read_tile(tile, signal, row, start)

    def samples_of(
        self, leaves: Sequence[Expr], tiles: Sequence[tirx.Buffer], t: Any, lane: Any
    ) -> dict[int, Any]:
        """Leaves by id, as they are at sample `t` of their tiles."""
        return {id(v): T.bind(tile[t, lane]) for v, tile in zip(leaves, tiles, strict=True)}

    def write_tile(self, target: tirx.Buffer, local: tirx.Buffer, row: Any, start: Any) -> None:
        """The way back of `read_tile`."""

        def move(lane: Any, t: Any) -> None:
            T.buffer_store(target, local[t, lane], [row + lane, start + t])

        self._tile(start, move)

    def _tile(self, start: Any, move: Callable[[Any, Any], None]) -> None:
        """`move(lane, t)` for every lane and sample of a tile; the last tile may be short."""
        with T.If(start + TILE <= self.samples):
            with T.Then(), T.serial(0, self.lanes) as lane, T.vectorized(0, TILE) as t:
                move(lane, t)
            with (
                T.Else(),
                T.serial(0, self.samples - start) as t,
                T.serial(0, self.lanes) as lane,
            ):
                move(lane, t)

    def emit(self, roots: Sequence[Expr], values: dict[int, Any]) -> list[Any]:
        """Expressions as lane values, each bound once."""
        for expr in in_order(roots):
            if id(expr) in values:
                continue
            args = [values[id(arg)] for arg in expr.args]
            if expr.op == "const":
                values[id(expr)] = tirx.FloatImm(self.dtype, expr.value)
            elif expr.op in (*COMPARISONS, *LOGIC):
                values[id(expr)] = _OPERATIONS[expr.op](*args)
            elif expr.op == "neg":
                values[id(expr)] = T.bind(tirx.Sub(tirx.FloatImm(self.dtype, 0.0), *args))
            elif expr.op == "to_float":
                one, zero = (tirx.FloatImm(self.dtype, v) for v in (1.0, 0.0))
                values[id(expr)] = T.bind(tirx.Select(*args, one, zero))
            else:
                values[id(expr)] = T.bind(_OPERATIONS[expr.op](*args))
        return [values[id(root)] for root in roots]


def _fmod(a: Any, b: Any) -> Any:
    """LLVM has no intrinsic of it."""
    dtype = str(a.ty.dtype)
    return tirx.call_pure_extern(dtype, "fmodf" if dtype == "float32" else "fmod", a, b)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": tirx.Add,
    "sub": tirx.Sub,
    "mul": tirx.Mul,
    "div": tirx.Div,
    "lt": tirx.LT,
    "gt": tirx.GT,
    "le": tirx.LE,
    "ge": tirx.GE,
    # TVM takes a value for equal to itself, and fails at vectors of equalities
    "eq": lambda a, b: tirx.And(tirx.LE(a, b), tirx.GE(a, b)),
    "ne": lambda a, b: tirx.Not(tirx.And(tirx.LE(a, b), tirx.GE(a, b))),
    "and": tirx.And,
    "or": tirx.Or,
    "not": tirx.Not,
    "fmod": _fmod,
    # torch's: a NaN on either side is the result
    "max": lambda a, b: tirx.Select(tirx.GT(a, b), a, tirx.Select(tirx.LE(a, b), b, a + b)),
    "min": lambda a, b: tirx.Select(tirx.LT(a, b), a, tirx.Select(tirx.GE(a, b), b, a + b)),
    "floor": tirx.floor,
    "abs": tirx.abs,
    "sqrt": tirx.sqrt,
    "exp": tirx.exp,
    "log": tirx.log,
    "sin": tirx.sin,
    "cos": tirx.cos,
    "tan": tirx.tan,
    "tanh": tirx.tanh,
    "trunc": tirx.trunc,
    "select": tirx.Select,
}


def forward(step: Step, adjoint: Adjoint | None, lanes: int, dtype: str) -> tirx.PrimFunc:
    """`(x.., parameters, state, y.., [tape,] next_state)`; with an adjoint its tape is written too.

    Shapes: each x and y (rows, samples), parameters (rows, count), states (rows, count), tape
    (rows / lanes, samples, count, lanes); rows must be a multiple of `lanes`.
    """
    k = _Kernel(lanes, dtype)
    taped = adjoint.taped if adjoint else ()
    params, states = len(step.params), len(step.states)
    with IRBuilder() as builder, T.prim_func():
        T.func_name("forward")
        x = k.signals("x", len(step.inputs))
        parameters, state = k.rows_of("parameters", params), k.rows_of("state", states)
        y = k.signals("y", len(step.outputs))
        tape = k.tape_of(len(taped)) if taped else None
        following = k.rows_of("following", states)
        with T.serial(0, tirx.floordiv(k.rows, lanes)) as block:
            row = block * lanes
            p, z = k.local(params), k.local(states)
            xt, yt = k.tiles(x), k.tiles(y)
            k.load_columns(p, parameters, row, params)
            k.load_columns(z, state, row, states)
            with T.serial(0, tirx.floordiv(k.samples + TILE - 1, TILE)) as number:
                start = number * TILE
                k.read_tiles(xt, x, row, start)
                with T.serial(0, tirx.min(TILE, k.samples - start)) as t:

                    def sample(i: Any, t: Any = t, start: Any = start) -> None:
                        values = {id(v): p[j, i] for j, v in enumerate(step.params)}
                        values |= {id(v): T.bind(z[j, i]) for j, v in enumerate(step.states)}
                        values |= k.samples_of(step.inputs, xt, t, i)
                        done = iter(k.emit([*step.outputs, *step.next_states, *taped], values))
                        for tile in yt:
                            T.buffer_store(tile, next(done), [t, i])
                        for j in range(states):
                            T.buffer_store(z, next(done), [j, i])
                        for j in range(len(taped)):
                            T.buffer_store(tape, next(done), [block, start + t, j, i])

                    k.each_lane(sample)
                for signal, tile in zip(y, yt, strict=True):
                    k.write_tile(signal, tile, row, start)
            k.store_columns(following, z, row, states)
    return builder.get().with_attr("global_symbol", "taped" if adjoint else "forward")


def backward(step: Step, adjoint: Adjoint, lanes: int, dtype: str) -> tirx.PrimFunc:
    """`(x.., parameters, [y..,] [tape,] gy.., gstate, gx.., gparameters, gstate0)`, shapes as
    `forward`."""
    k = _Kernel(lanes, dtype)
    params, states, tapes = len(step.params), len(step.states), len(adjoint.tape)
    with IRBuilder() as builder, T.prim_func():
        T.func_name("backward")
        x, parameters = k.signals("x", len(step.inputs)), k.rows_of("parameters", params)
        y = k.signals("y", len(step.outputs) if reads_output(adjoint) else 0)
        tape = k.tape_of(tapes) if tapes else None
        gy, gnext = k.signals("gy", len(step.outputs)), k.rows_of("gnext", states)
        gx, gparams = k.signals("gx", len(step.inputs)), k.rows_of("gparams", params)
        gstate = k.rows_of("gstate", states)
        with T.serial(0, tirx.floordiv(k.rows, lanes)) as block:
            row = block * lanes
            p, g, total = k.local(params), k.local(states), k.local(params)
            xt, yt, gt, gxt = (k.tiles(signals) for signals in (x, y, gy, gx))
            k.load_columns(p, parameters, row, params)
            k.load_columns(g, gnext, row, states)
            with T.serial(0, params) as j, T.serial(0, lanes) as i:
                T.buffer_store(total, tirx.FloatImm(dtype, 0.0), [j, i])
            tiles = tirx.floordiv(k.samples + TILE - 1, TILE)
            with T.serial(0, tiles) as number:
                start = (tiles - 1 - number) * TILE
                k.read_tiles(xt, x, row, start)
                k.read_tiles(gt, gy, row, start)
                k.read_tiles(yt, y, row, start)
                count = tirx.min(TILE, k.samples - start)
                with T.serial(0, count) as back:
                    t = count - 1 - back

                    def sample(i: Any, t: Any = t, start: Any = start) -> None:
                        values = {id(v): p[j, i] for j, v in enumerate(step.params)}
                        values |= k.samples_of(step.inputs, xt, t, i)
                        values |= k.samples_of(adjoint.output_cotangents, gt, t, i)
                        values |= k.samples_of(adjoint.outputs[: len(yt)], yt, t, i)
                        if tape is not None:
                            for j, v in enumerate(adjoint.tape):
                                values[id(v)] = T.bind(tape[block, start + t, j, i])
                        for j, v in enumerate(adjoint.state_cotangents):
                            values[id(v)] = T.bind(g[j, i])
                        gradients = [
                            *adjoint.input_gradients,
                            *adjoint.state_gradients,
                            *adjoint.param_gradients,
                        ]
                        done = iter(k.emit(gradients, values))
                        for tile in gxt:
                            T.buffer_store(tile, next(done), [t, i])
                        for j in range(states):
                            T.buffer_store(g, next(done), [j, i])
                        for j in range(params):
                            T.buffer_store(total, total[j, i] + next(done), [j, i])

                    k.each_lane(sample)
                for signal, tile in zip(gx, gxt, strict=True):
                    k.write_tile(signal, tile, row, start)
            k.store_columns(gparams, total, row, params)
            k.store_columns(gstate, g, row, states)
    return builder.get().with_attr("global_symbol", "backward")


def module(step: Step, adjoint: Adjoint, lanes: int, dtype: str) -> tvm.IRModule:
    """`forward`, `taped` and `backward` of one operator."""
    return tvm.IRModule(
        {
            "forward": forward(step, None, lanes, dtype),
            "taped": forward(step, adjoint, lanes, dtype),
            "backward": backward(step, adjoint, lanes, dtype),
        }
    )
