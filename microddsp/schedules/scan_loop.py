"""A compiled step over tensors as one function with a loop over samples around its kernels."""

from __future__ import annotations

from collections.abc import Sequence

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from microddsp.errors import CompileError
from microddsp.schedules.graph import operator_name, static_shape
from microddsp.schedules.lowering import plain_loops
from microddsp.schedules.scan_memory import (
    Carried,
    Line,
    Stream,
    Value,
    argument,
    copy,
    each,
    flat,
    local,
    place_of,
    read_tap,
    row_of,
    shift_line,
    store,
)


def scan_loop(
    mod: tvm.IRModule,
    carried: Sequence[Carried],
    inputs: Sequence[Stream],
    outputs: Sequence[Stream],
) -> tuple[tirx.PrimFunc, list[relax.Expr]]:
    """The loop around `mod`, whose main takes states (or the taps of lines), samples and tensors
    that stay, and gives following states (new values of lines) and output samples.

    Returns:
        The function (initial states, inputs, tensors that stay, constants; following states,
        outputs), and the constants that it is to be given.

    Raises:
        CompileError: The body has an operator without a kernel.
    """
    return _Loop(mod, carried, inputs, outputs).build()


class _Loop:
    def __init__(
        self,
        mod: tvm.IRModule,
        carried: Sequence[Carried],
        inputs: Sequence[Stream],
        outputs: Sequence[Stream],
    ) -> None:
        from microddsp.schedules.pipeline import pipeline

        self.mod = pipeline()(mod)
        self.main = self.mod["main"]
        self.carried, self.inputs, self.outputs = carried, inputs, outputs
        self.samples = inputs[0].samples
        self.constants: list[relax.Expr] = []
        self.memory: dict[relax.Var, list[tirx.Buffer]] = {}
        self.given: dict[int, tirx.Buffer] = {}

    def build(self) -> tuple[tirx.PrimFunc, list[relax.Expr]]:
        bindings = [b for block in self.main.body.blocks for b in block.bindings]
        self._find_constants([b.value for b in bindings] + [self.main.body.body])
        places = sum(len(c.taps) if isinstance(c, Line) else 1 for c in self.carried)
        stay = self.main.params[places + len(self.inputs) :]
        count = len(self.carried)
        total = count + len(self.inputs) + len(stay) + len(self.constants)
        with IRBuilder() as builder, T.prim_func(private=True):
            T.func_name("scan")
            pairs = [[total + i, i] for i in range(count)]
            T.func_attr({"tirx.noalias": True, "microddsp.inplace": pairs})
            starts = [argument(f"start{i}", c.shape, c.dtype) for i, c in enumerate(self.carried)]
            signals = [
                argument(f"in{i}", s.tensor_shape, s.dtype) for i, s in enumerate(self.inputs)
            ]
            fixed = [_of_type(f"fixed{i}", var) for i, var in enumerate(stay)]
            for i, value in enumerate(self.constants):
                self.given[i] = _of_type(f"constant{i}", value)
            following = [argument(f"next{i}", c.shape, c.dtype) for i, c in enumerate(self.carried)]
            results = [
                argument(f"out{i}", s.tensor_shape, s.dtype) for i, s in enumerate(self.outputs)
            ]
            params = iter(self.main.params)
            taps = []
            fresh: dict[int, tirx.Buffer] = {}
            for i, c in enumerate(self.carried):
                if isinstance(c, Line):
                    fresh[i] = local((self.samples, *c.value_shape), c.dtype)
                    for tap in c.taps:
                        place = local(c.value_shape, c.dtype)
                        taps.append((i, c, tap, place))
                        self.memory[next(params)] = [place]
                else:
                    self.memory[next(params)] = [following[i]]
                    copy(following[i], starts[i], c.shape)
            samples = []
            for s in self.inputs:
                samples.append(local(s.shape, s.dtype))
                self.memory[next(params)] = [samples[-1]]
            for buffer in fixed:
                self.memory[next(params)] = [buffer]
            self._allocate(bindings)
            with T.serial(0, self.samples) as t:
                for s, whole, one in zip(self.inputs, signals, samples, strict=True):
                    each(
                        s.shape,
                        lambda at, s=s, w=whole, o=one: store(o, at, w[place_of(s.index(at, t))]),
                    )
                for i, line, tap, place in taps:
                    read_tap(line, tap, starts[i], fresh[i], place, t, self.samples)
                for b in bindings:
                    self._run(b)
                made = self._results()
                for s, whole, one in zip(self.outputs, results, made[count:], strict=True):
                    memory = flat(one, s.shape, s.dtype)
                    each(
                        s.shape,
                        lambda at, s=s, w=whole, f=memory: T.buffer_store(
                            w, f[row_of(at, s.shape)], s.index(at, t)
                        ),
                    )
                self._carry(made[:count], following, fresh, t)
            for i, c in enumerate(self.carried):
                if isinstance(c, Line):
                    shift_line(c, starts[i], fresh[i], following[i], self.samples)
        return builder.get(), self.constants

    def _find_constants(self, values: Sequence[relax.Expr]) -> None:
        for value in values:
            for item in _leaves(value):
                if isinstance(item, tvm.ir.GenericConst) and self._constant(item) is None:
                    self.constants.append(item)

    def _constant(self, value: relax.Expr) -> int | None:
        return next((i for i, c in enumerate(self.constants) if c.same_as(value)), None)

    def _resolve(self, expr: relax.Expr) -> list[tirx.Buffer]:
        if isinstance(expr, relax.Var):
            return self.memory[expr]
        if isinstance(expr, tvm.ir.GenericConst):
            at = self._constant(expr)
            assert at is not None
            return [self.given[at]]
        if isinstance(expr, relax.Tuple):
            return [place for item in expr.fields for place in self._resolve(item)]
        if isinstance(expr, relax.TupleGetItem):
            return [self._resolve(expr.tuple_value)[int(expr.index)]]
        raise CompileError(f"a step has an unexpected {type(expr).__name__}")

    def _allocate(self, bindings: Sequence[relax.VarBinding]) -> None:
        from microddsp.schedules.pipeline import VIEWS

        for b in bindings:
            value = b.value
            if operator_name(value) in VIEWS:
                self.memory[b.var] = self._resolve(value.args[0])
            elif isinstance(value, relax.Call):
                if value.op != tvm.ir.Op.get("relax.call_tir"):
                    raise CompileError(f"no kernel for operator {value.op} inside a step")
                ty = b.var.ty
                types = list(ty.fields) if isinstance(ty, relax.TupleType) else [ty]
                self.memory[b.var] = [
                    local(tuple(int(n) for n in one.shape), str(one.dtype)) for one in types
                ]
            else:
                self.memory[b.var] = self._resolve(value)

    def _run(self, b: relax.VarBinding) -> None:
        """The kernel of a binding, in place: its tensors are ours."""
        call = b.value
        if not isinstance(call, relax.Call) or operator_name(call) != "relax.call_tir":
            return
        kernel = plain_loops(self.mod[call.args[0]], "step")
        given = [p for arg in call.args[1].fields for p in self._resolve(arg)]
        pairs = list(zip(kernel.params, [*given, *self.memory[b.var]], strict=True))

        def ours(var: tvm.ir.Var) -> tvm.ir.Var:
            return next((place for param, place in pairs if param.same_as(var)), var)

        T.add_to_parent(tvm_ffi.structural_map(kernel.body, (tvm.ir.Var, ours), order="post"))

    def _results(self) -> list[tirx.Buffer]:
        body = self.main.body.body
        return self._resolve(body)

    def _carry(
        self,
        made: Sequence[tirx.Buffer],
        following: Sequence[tirx.Buffer],
        fresh: dict[int, tirx.Buffer],
        t: Value,
    ) -> None:
        """New states into their places. Through copies where a state becomes what another was."""
        pending = []
        for i, (c, new) in enumerate(zip(self.carried, made, strict=True)):
            if isinstance(c, Line):
                memory = flat(new, c.value_shape, c.dtype)
                each(
                    c.value_shape,
                    lambda at, i=i, c=c, f=memory: T.buffer_store(
                        fresh[i], f[row_of(at, c.value_shape)], [t, *at]
                    ),
                )
            elif not new.same_as(following[i]):
                if any(new.same_as(other) for other in following):
                    held = local(c.shape, c.dtype)
                    copy(held, new, c.shape)
                    new = held
                pending.append((following[i], new, c))
        for target, new, c in pending:
            copy(target, new, c.shape)


def _leaves(expr: relax.Expr) -> list[relax.Expr]:
    if isinstance(expr, relax.Tuple):
        return [leaf for item in expr.fields for leaf in _leaves(item)]
    if isinstance(expr, relax.Call):
        return [leaf for arg in expr.args for leaf in _leaves(arg)]
    return [expr]


def _of_type(name: str, value: relax.Expr) -> tirx.Buffer:
    return argument(name, static_shape(value) or (), str(value.ty.dtype))
