"""The compiled main function as a list of calls on named memory, ready to be printed as C."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import tvm
from tvm import relax

from microddsp.errors import CompileError
from microddsp.micro.aot.arena import ALIGN, Buffer, Plan, Planner, plan_arena, plan_with
from microddsp.micro.aot.calls import Call, Place
from microddsp.micro.aot.kernel import Kernel
from microddsp.micro.aot.kernel_choices import as_stored, code_of, narrowed
from microddsp.micro.aot.lives import lives
from microddsp.micro.aot.narrow import Stored
from microddsp.micro.aot.results import early_results, is_view, results_of
from microddsp.signature import C_TYPES, KERNEL_TYPES


@dataclass(slots=True)
class Program:
    """Everything that the C templates print."""

    calls: list[Call] = field(default_factory=list)
    kernels: list[Kernel] = field(default_factory=list)
    constants: list[tuple[Place, np.ndarray]] = field(default_factory=list)
    plan: Plan = field(default_factory=lambda: Plan({}, 0))
    buffers: list[Buffer] = field(default_factory=list)
    # by state: elements of a row that tell whether it is finite; a state not named here: all
    witnesses: dict[str, tuple[int, ...]] = field(default_factory=dict)


class _Builder:
    def __init__(
        self,
        mod: tvm.IRModule,
        name: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        states: Sequence[str],
        fma: bool,
        io_in_arena: bool,
        narrow: bool,
        align: int,
    ) -> None:
        self.align = align
        self.mod, self.name, self.fma, self.narrow = mod, name, fma, narrow
        self.planned = ("arena", "input", "output") if io_in_arena else ("arena",)
        self.main = mod["main"]
        self.inputs, self.output_names, self.states = inputs, outputs, states
        self.program = Program()
        self.places: dict[relax.Var, list[Place]] = {}
        self.kernels: dict[tuple[object, ...], Kernel] = {}
        self.constants: dict[tuple[bytes, str], Place] = {}
        self.witnesses: dict[tuple[str, str], tuple[int, ...]] = {}  # by kind and name of a place
        self.temporaries = 0
        self.prefix = ""
        self.planner: Planner | None = None

    def run(self) -> Program:
        names = [*self.inputs, *self.states]
        for i, (var, name) in enumerate(zip(self.main.params, names, strict=True)):
            kind = "input" if i < len(self.inputs) else "state"
            self.places[var] = [_place(kind, name, var.ty)]
        bindings = [b for block in self.main.body.blocks for b in block.bindings]
        self.results = results_of(self.main, bindings)
        self.targets = self._targets(bindings)
        for b in bindings:
            self._bind(b)
        self._copy_results()
        self._plan()
        return self.program

    def _resolve(self, expr: relax.Expr) -> list[Place]:
        if isinstance(expr, relax.Var):
            return self.places[expr]
        if isinstance(expr, tvm.ir.GenericConst):
            return [self._constant(expr.value.numpy())]
        if isinstance(expr, relax.Tuple):
            return [place for item in expr.fields for place in self._resolve(item)]
        if isinstance(expr, relax.TupleGetItem):
            return [self._resolve(expr.tuple_value)[int(expr.index)]]
        raise CompileError(f"the compiled graph has an unexpected {type(expr).__name__}")

    def _constant(self, value: np.ndarray) -> Place:
        value = np.ascontiguousarray(value)
        key = (value.tobytes(), str(value.dtype))
        if key not in self.constants:
            name = f"{self.prefix}c{len(self.constants)}"
            place = Place("constant", name, str(value.dtype), value.shape)
            self.constants[key] = place
            self.program.constants.append((place, value))
        return self.constants[key]

    def _targets(self, bindings: Sequence[relax.VarBinding]) -> dict[tuple[relax.Var, int], Place]:
        """Places of the results that may be computed straight into them."""
        states = list(self.main.params)[len(self.inputs) :]
        found = early_results(self.mod, bindings, self.results, states)
        return {key: self._result_place(i) for key, i in found.items()}

    def _result_place(self, number: int) -> Place:
        """Of an output, or behind them of a state."""
        count = len(self.output_names)
        if number < count:
            return _place("output", self.output_names[number], self.results[number].ty)
        return self.places[self.main.params[len(self.inputs) + number - count]][0]

    def _bind(self, b: relax.VarBinding) -> None:
        value = b.value
        if is_view(value):
            (inner,) = self._resolve(value.args[0])
            shape = tuple(int(size) for size in b.var.ty.shape)
            self.places[b.var] = [Place(inner.kind, inner.name, inner.dtype, shape)]
        elif isinstance(value, relax.Call):
            if value.op != tvm.ir.Op.get("relax.call_tir"):
                raise CompileError(
                    f"no kernel for operator {value.op}",
                    hint="this operator compiles for the host only; write it another way",
                )
            self._call(b.var, value)
        else:
            self.places[b.var] = self._resolve(value)

    def _call(self, var: relax.Var, call: relax.Call) -> None:
        arguments = list(call.args[1].fields)
        kernel, tables = self._kernel(call.args[0].name_hint, arguments)
        types = list(var.ty.fields) if isinstance(var.ty, relax.TupleType) else [var.ty]
        made = [self.targets.get((var, i)) or self._temporary(ty) for i, ty in enumerate(types)]
        self.places[var] = made
        scratch = [self._new(Place("arena", "", p.dtype, (p.elements,))) for p in kernel.scratch]
        given = [
            [self._constant(tables[i].values)] if i in tables else self._resolve(argument)
            for i, argument in enumerate(arguments)
        ]
        known = (self.mod[call.args[0]].attrs or {}).get("microddsp.witnesses", ()) or ()
        for at, *elements in known:
            place = made[int(at) - len(arguments)]
            self.witnesses[place.kind, place.name] = tuple(int(i) for i in elements)
        places = (*(place for group in given for place in group), *made, *scratch)
        for out, into in kernel.grown:
            if places[out].key != places[into].key:
                self.program.calls.append(Call(None, (places[into], places[out])))
        self.program.calls.append(Call(kernel, places))

    def _kernel(
        self, func_name: str, arguments: Sequence[relax.Expr]
    ) -> tuple[Kernel, dict[int, Stored]]:
        """The kernel of a function, and its arguments that are stored in fewer bits."""
        known = {
            i: argument.value.numpy()
            for i, argument in enumerate(arguments)
            if isinstance(argument, tvm.ir.GenericConst)
        }
        tables = narrowed(known) if self.narrow else {}
        key = (func_name, *((i, str(t.values.dtype), t.scale) for i, t in tables.items()))
        if key not in self.kernels:
            name = self._kernel_name(func_name)
            restrict = f"{self.name.upper()}_RESTRICT"
            self.kernels[key] = code_of(
                self.mod[func_name], name, fma=self.fma, restrict=restrict, tables=tables
            )
            self.program.kernels.append(self.kernels[key])
        return self.kernels[key], as_stored(self.kernels[key], tables)

    def _kernel_name(self, func_name: str) -> str:
        """What it computes, short enough to read, numbered so that it is unique."""
        words = func_name.replace("fused_", "").replace("tir_", "").replace("relax_", "")
        return f"{self.name}_{self.prefix}k{len(self.kernels)}_{words[:32].strip('_')}"

    def _temporary(self, ty: relax.TensorType) -> Place:
        return self._new(_place("arena", "", ty))

    def _new(self, place: Place) -> Place:
        self.temporaries += 1
        return Place("arena", f"t{self.temporaries - 1}", place.dtype, place.shape)

    def _copy_results(self) -> None:
        """What could not be computed in its place is copied there, states last."""
        copies = []
        for i, item in enumerate(self.results):
            (made,) = self._resolve(item)
            target = self._result_place(i)
            if target.kind == "state" and (made.kind, made.name) in self.witnesses:
                self.program.witnesses[target.name] = self.witnesses[made.kind, made.name]
            if (made.kind, made.name) != (target.kind, target.name):
                copies.append(Call(None, (made, target)))
        self.program.calls.extend(_in_safe_order(copies))

    def _plan(self) -> None:
        self.program.buffers, inplace = lives(self.program.calls, self.planned)
        self.program.plan = (
            plan_with(self.planner, self.program.buffers, align=self.align)
            if self.planner
            else plan_arena(self.program.buffers, inplace=inplace, align=self.align)
        )
        self._tell_kernels()

    def _tell_kernels(self) -> None:
        """A compiler must not think that arguments lie apart if they share memory."""
        plan = self.program.plan
        shared: dict[str, set[int]] = {kernel.name: set() for kernel in self.program.kernels}
        for call in self.program.calls:
            if call.kernel is not None:
                shared[call.kernel.name] |= _sharing(call, plan)
        told = {k.name: replace(k, shared=frozenset(shared[k.name])) for k in self.program.kernels}
        self.program.kernels = list(told.values())
        self.program.calls = [
            replace(call, kernel=told[call.kernel.name]) if call.kernel else call
            for call in self.program.calls
        ]


def build_program(
    mod: tvm.IRModule,
    name: str,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    states: Sequence[str],
    fma: bool,
    io_in_arena: bool = False,
    narrow: bool = False,
    align: int = ALIGN,
    prefix: str = "",
    doubles: bool = False,
    planner: Planner | None = None,
) -> Program:
    """Turn a lowered module (main of call_tir bindings) into calls on planned memory. `narrow`
    stores constants in fewer bits where that loses nothing; `prefix` begins the names of kernels
    and constants, behind the model's; `doubles` allows tensors of float64.

    Raises:
        CompileError: An operator is left that has no kernel, or no C can be printed for one.
    """
    builder = _Builder(mod, name, inputs, outputs, states, fma, io_in_arena, narrow, align)
    builder.prefix, builder.planner = prefix, planner
    program = builder.run()
    used = {place.dtype for call in program.calls for place in call.arguments}
    if not doubles and not used <= C_TYPES.keys():
        raise _no_type(min(used - C_TYPES.keys()))
    return program


def _sharing(call: Call, plan: Plan) -> set[int]:
    """Arguments of a call that lie in the memory of others."""
    places = [
        (i, plan.offsets[p.key], plan.offsets[p.key] + p.nbytes)
        for i, p in enumerate(call.arguments)
        if p.key in plan.offsets
    ]
    return {
        i
        for i, begin, end in places
        for other, first, last in places
        if i != other and begin < last and first < end
    }


def _in_safe_order(copies: Sequence[Call]) -> list[Call]:
    """Each place is read before it is written: in a shift register the oldest goes first."""
    left, ordered = list(copies), []
    while left:
        read = {(c.arguments[0].kind, c.arguments[0].name) for c in left}
        free = [c for c in left if (c.arguments[1].kind, c.arguments[1].name) not in read]
        if not free:
            raise CompileError("states that exchange their values are not supported")
        ordered += free
        left = [c for c in left if c not in free]
    return ordered


def _place(kind: str, name: str, ty: relax.TensorType) -> Place:
    shape = tuple(int(size) for size in ty.shape)
    dtype = str(ty.dtype)
    if dtype not in KERNEL_TYPES:
        raise _no_type(dtype)
    return Place(kind, name, dtype, shape)


def _no_type(dtype: str) -> CompileError:
    return CompileError(
        f"a tensor of type {dtype} has no C type here", hint="cast it to float32 or int32"
    )
