"""One TIR function becomes one static C function, text by TVM's own C generator."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import tvm
from tvm import tirx

from microddsp.errors import CompileError
from microddsp.micro.aot.accesses import Accesses, accesses_of
from microddsp.micro.aot.narrow import Stored, with_stored
from microddsp.micro.aot.rewrites import (
    EXACT,
    Scratch,
    hoist_scratch,
    rewrite_for_c,
    uncover,
)
from microddsp.relax_ops.choices import KEY
from microddsp.relax_ops.copy import copied
from microddsp.relax_ops.either import EITHER
from microddsp.schedules.lowering import plain_loops
from microddsp.signature import KERNEL_TYPES

# How TVM prints a pointer that `either` chooses: its name and what it points to.
_POINTER = re.compile(rf"void\* (\w+) = \(void\*\)\(\(void\*\)({EITHER}\(.*\))\);")


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
    parameters that lie in memory of others in some call: the compiler must know. An output of
    `grown` must hold its input when the kernel starts. `lowered` is what a code generator takes,
    `accesses` None where they are not clear. `key` is what it is known by if its choices were asked
    for.
    """

    name: str
    parameters: tuple[Parameter, ...]
    scratch: tuple[Parameter, ...]
    body: str
    inplace: tuple[tuple[int, int], ...]
    grown: tuple[tuple[int, int], ...]
    restrict: str
    lowered: tirx.PrimFunc
    accesses: Accesses | None = None
    shared: frozenset[int] = frozenset()
    key: str = ""

    @property
    def text(self) -> str:
        """The C function."""
        return f"static {self.declaration}\n{{\n{self.body}}}\n"

    @property
    def declaration(self) -> str:
        shared = self.shared | {index for pair in self.inplace for index in pair}
        declared = []
        for index, p in enumerate([*self.parameters, *self.scratch]):
            const = "" if p.written else "const "
            alias = "" if index in shared else f"{self.restrict} "
            declared.append(f"{const}{KERNEL_TYPES[p.dtype]} *{alias}{p.name}")
        return f"void {self.name}({', '.join(declared)})"


def lower(
    func: tirx.PrimFunc, name: str, *, fma: bool, tables: Mapping[int, Stored] | None = None
) -> tuple[tvm.IRModule, list[Scratch], frozenset[int]]:
    """The passes up to what a C or LLVM code generator takes: pointer parameters, plain loops;
    local arrays that became parameters, and which tables are read as they are stored."""
    flat, narrow = with_stored(plain_loops(func, name), tables or {})
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
    return tvm.IRModule({name: plain}), scratch, narrow


def generate(
    func: tirx.PrimFunc,
    name: str,
    *,
    fma: bool,
    restrict: str,
    tables: Mapping[int, Stored] | None = None,
) -> Kernel:
    """C source of `func` as `static void name(...)`. Parameters in `tables` are read as they are
    stored there if that can be.

    Raises:
        CompileError: The code generator has no rule for something in the function.
    """
    for p in func.params:
        if str(p.dtype) not in KERNEL_TYPES:
            raise CompileError(f"kernel {name} has a tensor of type {p.dtype}, which has no C type")
    written = _written_names(func)
    inplace, grown = pairs_of(func, "inplace"), pairs_of(func, "grown")
    try:
        mod, scratch, narrow = lower(func, name, fma=fma, tables=tables)
        target = tvm.target.Target({"kind": "c", "keys": ["cpu"]})
        source = tvm.get_global_func("target.build.c")(mod, target).inspect_source()
    except tvm.error.InternalError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CompileError(f"no C code for kernel {name}: {reason}") from error
    names, body = _cut(source, name)
    dtypes = [
        str(tables[i].values.dtype) if tables and i in narrow else str(p.dtype)
        for i, p in enumerate(func.params)
    ]
    parameters = tuple(
        Parameter(c_name, dtype, _elements(p), p.name in written)
        for c_name, dtype, p in zip(names, dtypes, func.params, strict=False)
    )
    temporaries = tuple(
        Parameter(c_name, s.dtype, s.elements, True)
        for c_name, s in zip(names[len(parameters) :], scratch, strict=True)
    )
    pointers = mod[name].params
    counts = [p.elements for p in (*parameters, *temporaries)]
    accesses = accesses_of(mod[name].body, pointers, counts)
    unread = [p.name for p in parameters if not re.search(rf"\b{p.name}\b", body)]
    body = _polish("".join(f"  (void){parameter};\n" for parameter in unread) + body)
    key = str((func.attrs or {}).get(KEY, ""))
    return Kernel(
        name, parameters, temporaries, body, inplace, grown, restrict, mod[name], accesses, key=key
    )


def pairs_of(func: tirx.PrimFunc, what: str) -> tuple[tuple[int, int], ...]:
    """Pairs (output, input) of a kernel's parameters, see `Kernel`."""
    found = (func.attrs or {}).get(f"microddsp.{what}", ()) or ()
    return tuple((int(a), int(b)) for a, b in found)


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
    for pointer, place in _POINTER.findall(body):
        body = body.replace(f"void* {pointer} =", f"const float *{pointer} =")
        body = body.replace(f"(void*)((void*){place})", place)
        body = body.replace(f"((float*){pointer})[", f"{pointer}[")
    body = re.sub(r"^ *#pragma unroll.*\n", "", body, flags=re.MULTILINE)  # before each while
    lines = []
    for line in body.splitlines():
        stripped = line.lstrip(" ")
        lines.append(" " * (2 * (len(line) - len(stripped))) + stripped)
    return "\n".join(lines) + "\n"
