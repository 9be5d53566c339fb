"""One TIR function becomes one static C function, text by TVM's own C generator."""

from __future__ import annotations

import re
from dataclasses import dataclass

import tvm
from tvm import tirx

from microddsp.errors import CompileError
from microddsp.micro.aot.accesses import Accesses, accesses_of
from microddsp.micro.aot.rewrites import (
    EXACT,
    Scratch,
    hoist_scratch,
    rewrite_for_c,
    uncover,
)
from microddsp.relax_ops.copy import copied
from microddsp.schedules.lowering import plain_loops
from microddsp.signature import C_TYPES


@dataclass(frozen=True, slots=True)
class Parameter:
    """A pointer parameter of a kernel; `written` ones are outputs or scratch."""

    name: str
    dtype: str
    elements: int
    written: bool


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel in C. `inplace` pairs (output, input) may be the same memory; `shared` are the
    parameters that lie in memory of others in some call: the compiler must know. `accesses` is
    None where they are not clear."""

    name: str
    parameters: tuple[Parameter, ...]
    scratch: tuple[Parameter, ...]
    body: str
    inplace: tuple[tuple[int, int], ...]
    restrict: str
    accesses: Accesses | None = None
    shared: frozenset[int] = frozenset()

    @property
    def text(self) -> str:
        """The C function."""
        shared = self.shared | {index for pair in self.inplace for index in pair}
        declared = []
        for index, p in enumerate([*self.parameters, *self.scratch]):
            const = "" if p.written else "const "
            alias = "" if index in shared else f"{self.restrict} "
            declared.append(f"{const}{C_TYPES[p.dtype]} *{alias}{p.name}")
        return f"static void {self.name}({', '.join(declared)})\n{{\n{self.body}}}\n"


def lower(func: tirx.PrimFunc, name: str, *, fma: bool) -> tuple[tvm.IRModule, list[Scratch]]:
    """The passes up to what a C or LLVM code generator takes: pointer parameters, plain loops."""
    flat = plain_loops(func, name)
    body, scratch = hoist_scratch(flat.body)
    pointers = [
        tirx.Var(p.name, tirx.buffer.buffer_data_pointer_type(p))
        for p in [*flat.params, *(s.buffer for s in scratch)]
    ]
    buffers = [*flat.params, *(s.buffer for s in scratch)]
    declared = [tirx.DeclBuffer(b, data=v) for b, v in zip(buffers, pointers, strict=True)]
    body = rewrite_for_c(tirx.SeqStmt([*declared, body]), fma=fma)
    mod = tvm.IRModule({name: tirx.PrimFunc(pointers, body, flat.ret_type, flat.attrs)})
    done = tirx.transform.LowerIntrin()(mod)[name]
    plain = tirx.PrimFunc(pointers, uncover(done.body), done.ret_type, done.attrs)
    return tvm.IRModule({name: plain}), scratch


def generate(func: tirx.PrimFunc, name: str, *, fma: bool, restrict: str) -> Kernel:
    """C source of `func` as `static void name(...)`.

    Raises:
        CompileError: The code generator has no rule for something in the function.
    """
    for p in func.params:
        if str(p.dtype) not in C_TYPES:
            raise CompileError(f"kernel {name} has a tensor of type {p.dtype}, which has no C type")
    written = _written_names(func)
    inplace = tuple(
        (int(a), int(b)) for a, b in ((func.attrs or {}).get("microddsp.inplace", ()) or ())
    )
    try:
        mod, scratch = lower(func, name, fma=fma)
        target = tvm.target.Target({"kind": "c", "keys": ["cpu"]})
        source = tvm.get_global_func("target.build.c")(mod, target).inspect_source()
    except tvm.error.InternalError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CompileError(f"no C code for kernel {name}: {reason}") from error
    names, body = _cut(source, name)
    parameters = tuple(
        Parameter(c_name, str(p.dtype), _elements(p), p.name in written)
        for c_name, p in zip(names, func.params, strict=False)
    )
    temporaries = tuple(
        Parameter(c_name, s.dtype, s.elements, True)
        for c_name, s in zip(names[len(parameters) :], scratch, strict=True)
    )
    pointers = mod[name].params
    counts = [p.elements for p in (*parameters, *temporaries)]
    accesses = accesses_of(mod[name].body, pointers, counts)
    return Kernel(name, parameters, temporaries, _polish(body), inplace, restrict, accesses)


def _elements(buffer: tirx.Buffer) -> int:
    count = 1
    for size in buffer.shape:
        count *= int(size)
    return count


def _written_names(func: tirx.PrimFunc) -> set[str]:
    """Parameters that are stored to, under whatever name."""
    import tvm_ffi

    found: set[str] = set()
    behind: dict[str, set[str]] = {}

    def note(store: tirx.BufferStore) -> None:
        found.add(store.buffer.name)

    def note_copy(call: tvm.ir.Call) -> None:
        places = copied(call)
        if places is not None:
            found.add(places[0].source.name)

    def alias(declared: tirx.DeclBuffer) -> None:
        def source(var: tvm.ir.Var) -> None:
            behind.setdefault(declared.buffer.name, set()).add(var.name)

        tvm_ffi.structural_walk(declared.data, (tvm.ir.Var, source), order="post")

    tvm_ffi.structural_walk(
        func.body, [(tirx.BufferStore, note), (tvm.ir.Call, note_copy), (tirx.DeclBuffer, alias)]
    )
    grown = True
    while grown:
        more = {name for alias in found for name in behind.get(alias, ())} - found
        grown = bool(more)
        found |= more
    return found


def _cut(source: str, name: str) -> tuple[list[str], str]:
    """Parameter names and body of the one function in TVM's output."""
    found = re.search(rf"void {name}\(([^)]*)\) {{\n(.*?)^}}\n", source, re.DOTALL | re.MULTILINE)
    if found is None:
        raise CompileError(f"the C generator gave no function {name}")
    names = [p.split()[-1].lstrip("*") for p in found[1].split(",") if p.strip()]
    return names, found[2]


def _polish(body: str) -> str:
    """House indentation, exact constants; no change of meaning."""
    body = re.sub(rf"{EXACT}([-+.\w]+)\(\)", lambda m: m[1], body)
    body = re.sub(r"^ *#pragma unroll.*\n", "", body, flags=re.MULTILINE)  # before each while
    lines = []
    for line in body.splitlines():
        stripped = line.lstrip(" ")
        lines.append(" " * (2 * (len(line) - len(stripped))) + stripped)
    return "\n".join(lines) + "\n"
