"""Kernels as object code by TVM's LLVM generator: the same numbers as the C, bit for bit.

It takes the kernels as they were rewritten for C: fused multiply-adds are chosen there, so that
both generators round alike. What LLVM would do otherwise is switched off here:

- TVM lets LLVM fuse `a * b + c` wherever it stands. ARM cores are told not to, and the assembly is
  counted: more fused instructions than fused calls in the optimised code is an error.
- TVM gives each buffer its own type for alias analysis, also where parameters share memory.
- TVM puts bound values back into every use: exponential work for long recursions. They become
  local memory, which LLVM turns back into registers.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import StringImm

from microddsp.errors import CompileError
from microddsp.micro.aot.kernel import Kernel
from microddsp.micro.aot.rewrites import EXACT, is_extern
from microddsp.micro.targets import Target
from microddsp.relax_ops.copy import copied
from microddsp.relax_ops.either import chosen_place

_INTRINSICS = {"fmaf": "llvm.fma", "fabsf": "llvm.fabs", "sqrtf": "llvm.sqrt"}
_SAME_BITS = {"microddsp_bits": "int32", "microddsp_float": "float32"}
# Levels of maxima within maxima.
MAX_NESTED = 4
_HELPERS = ("microddsp_max", "microddsp_min")
_FUSED_CALL = re.compile(r"call .*@llvm\.fma\.f32\(")
_FUSED_INSTRUCTION = re.compile(r"^\s+(vfn?m[as]|vfn?m(add|sub))", re.MULTILINE)


def build_object(kernels: Sequence[Kernel], target: Target) -> bytes:
    """An ELF object with all kernels, the same bytes on every run.

    Raises:
        CompileError: LLVM is not part of this TVM, does not take a kernel, or did not keep to the
            rules of rounding.
    """
    build = tvm.get_global_func("target.build.llvm", allow_missing=True)
    if build is None:
        raise CompileError("this TVM has no LLVM", hint="emit C")
    chosen = _llvm_target(target)
    functions = {kernel.name: _function(kernel, chosen) for kernel in kernels}
    try:
        library = build(tvm.IRModule(functions), chosen)
    except tvm.error.InternalError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CompileError(f"no object code: {reason}", hint="emit C") from error
    _check_rounding(library.inspect_source("ll"), library.inspect_source("asm"))
    with tempfile.TemporaryDirectory(prefix="microddsp-") as folder:
        path = Path(folder) / "kernels.o"
        library.write_to_file(str(path))
        return path.read_bytes()


def _llvm_target(target: Target) -> tvm.target.Target:
    return tvm.target.Target(
        {
            "kind": "llvm",
            "mtriple": target.triple,
            "mattr": list(target.llvm_features),
            "vector-width": 32,
            "cl-opt": ["-enable-tbaa:bool=false"],
            **({"mcpu": target.cpu} if target.cpu != "native" else {}),
            **({"mfloat-abi": "hard" if target.fpu else "soft"} if target.cpu != "native" else {}),
        }
    )


def _check_rounding(code: str, assembly: str) -> None:
    wanted = len(_FUSED_CALL.findall(code))
    made = len(_FUSED_INSTRUCTION.findall(assembly))
    if made > wanted:
        raise CompileError(
            f"LLVM fused {made - wanted} products with sums that must be rounded apart",
            hint="emit C, which rounds as PyTorch does",
        )


def _function(kernel: Kernel, target: tvm.target.Target) -> tirx.PrimFunc:
    lowered = kernel.lowered
    _check_extremes(lowered.body)
    body = without_helpers(lowered.body)
    attrs = {
        "global_symbol": kernel.name,
        "target": target,
        "tirx.noalias": not (kernel.shared or kernel.inplace),
    }
    func = tirx.PrimFunc(lowered.params, _bound_in_memory(body), lowered.ret_type)
    return func.with_attrs(attrs)


def without_helpers(body: tirx.Stmt) -> tirx.Stmt:
    """The same statements without the functions that the generated C brings along."""
    body = tvm_ffi.structural_map(body, (tirx.Evaluate, _copies), order="post")
    body = _chosen_places(body)
    return tvm_ffi.structural_map(body, (tvm.ir.Call, _call), order="post")


def _copies(statement: tirx.Evaluate) -> tirx.Stmt:
    """Numbers one by one: LLVM joins them by itself."""
    found = copied(statement.value)
    if found is None:
        return statement
    target, source, count = found

    def move(i: int) -> tirx.Stmt:
        to, start = ([*load.indices[:-1], load.indices[-1] + i] for load in (target, source))
        return tirx.BufferStore(target.source, tirx.BufferLoad(source.source, start), to)

    return tirx.SeqStmt([move(i) for i in range(count)])


def _chosen_places(body: tirx.Stmt) -> tirx.Stmt:
    """What is read from one of two places, read at once into registers: one jump for all of it."""
    pointers: dict[tvm.ir.Var, Any] = {}

    def forget(bind: tirx.Bind) -> tirx.Stmt:
        found = chosen_place(bind.value)
        if found is None:
            return bind
        pointers[bind.var] = found
        return tirx.Evaluate(0)

    def take(declared: tirx.DeclBuffer) -> tirx.Stmt:
        if declared.data not in pointers:
            return declared
        buffer = declared.buffer
        condition, *places = pointers[declared.data]

        def read(place: Any) -> tirx.Stmt:
            values = (
                tirx.BufferLoad(place.source, [place.indices[0] + i])
                for i in range(int(buffer.shape[0]))
            )
            return tirx.SeqStmt([tirx.BufferStore(buffer, v, [i]) for i, v in enumerate(values)])

        return tirx.SeqStmt(
            [tirx.AllocBuffer(buffer), tirx.IfThenElse(condition, *map(read, places))]
        )

    for node, change in ((tirx.Bind, forget), (tirx.DeclBuffer, take)):
        body = tvm_ffi.structural_map(body, (node, change), order="post")
    return body


def _call(call: tvm.ir.Call) -> tvm.ir.Expr:
    """C's functions as LLVM's own operations, where there are any."""
    for function, dtype in _SAME_BITS.items():
        if is_extern(call, function):
            return tirx.reinterpret(dtype, call.args[1])
    for function, intrinsic in _INTRINSICS.items():
        if is_extern(call, function):
            return tirx.call_llvm_pure_intrin("float32", intrinsic, *call.args[1:])
    if is_extern(call, "-"):
        return tirx.Sub(tirx.FloatImm("float32", -0.0), call.args[1])  # what LLVM calls fneg
    if _is_extreme(call):
        return _extreme(call)
    text = call.args[0].value if call.args and isinstance(call.args[0], StringImm) else ""
    if text.startswith(EXACT):
        return tirx.FloatImm("float32", _value(text.removeprefix(EXACT)))
    return call


def _value(text: str) -> float:
    """The number that a C literal names."""
    if text.endswith(("NAN", "INFINITY")):
        return float(text.lower().replace("infinity", "inf"))
    return float.fromhex(text[:-1]) if "0x" in text else float(text[:-1])


def _bound_in_memory(body: tirx.Stmt) -> tirx.Stmt:
    places: dict[tvm.ir.Var, tirx.Buffer] = {}

    def find(bind: tirx.Bind) -> None:
        if str(bind.var.ty) == "float32":
            places[bind.var] = tirx.decl_buffer((1,), "float32", bind.var.name)

    def store(bind: tirx.Bind) -> tirx.Stmt:
        place = places.get(bind.var)
        return bind if place is None else tirx.BufferStore(place, bind.value, [0])

    def load(var: tvm.ir.Var) -> tvm.ir.Expr:
        return tirx.BufferLoad(places[var], [0]) if var in places else var

    tvm_ffi.structural_walk(body, (tirx.Bind, find))
    body = tvm_ffi.structural_map(body, (tirx.Bind, store), order="post")
    body = tvm_ffi.structural_map(body, (tvm.ir.Var, load), order="post")
    return tirx.SeqStmt([*map(tirx.AllocBuffer, places.values()), body])


def _extreme(call: tvm.ir.Call) -> tvm.ir.Expr:
    """The larger (smaller) one; NaN if one of them is."""
    a, b = call.args[1:]
    ahead = tirx.GT(a, b) if is_extern(call, "microddsp_max") else tirx.LT(a, b)
    return tirx.Select(tirx.Or(ahead, tirx.NE(a, a)), a, b)


def _check_extremes(body: tirx.Stmt) -> None:
    """Operands of a maximum are written several times: not maxima of maxima of maxima."""

    def depth(expr: tvm.ir.Expr) -> int:
        inner: list[tvm.ir.Call] = []
        tvm_ffi.structural_walk(expr, (tvm.ir.Call, inner.append))
        nested = [c for c in inner if not c.same_as(expr) and _is_extreme(c)]
        return 1 + max((depth(c) for c in nested), default=0)

    def look(call: tvm.ir.Call) -> None:
        if _is_extreme(call) and depth(call) > MAX_NESTED:
            raise CompileError("maxima within maxima are too deep for object code", hint="emit C")

    tvm_ffi.structural_walk(body, (tvm.ir.Call, look))


def _is_extreme(call: tvm.ir.Call) -> bool:
    return any(is_extern(call, helper) for helper in _HELPERS)
