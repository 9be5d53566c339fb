"""Constants stored in fewer bits where that loses nothing: whole numbers times a power of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx

LEAST = 32  # numbers of a table for which reading it another way pays


@dataclass(frozen=True, slots=True)
class Stored:
    """A table as whole numbers; what it stands for is `scale` times them, exactly."""

    values: np.ndarray
    scale: float


def stored(values: np.ndarray) -> Stored | None:
    """float32 numbers as int8 or int16, or None if that cannot be without rounding."""
    if str(values.dtype) != "float32" or values.size < LEAST or not np.isfinite(values).all():
        return None
    some = values[values != 0].astype("float64")
    if not some.size:
        return Stored(np.zeros(values.shape, "int8"), 1.0)
    mantissas, exponents = np.frexp(some)
    whole = np.abs(mantissas * 2.0**24).astype("int64")
    zeros = np.log2((whole & -whole).astype("float64"))
    power = int((exponents - 24 + zeros).min())
    scale = 2.0**power
    if power < np.finfo("float32").minexp:
        return None
    numbers = values.astype("float64") / scale
    for dtype in ("int8", "int16"):
        if np.abs(numbers).max() <= np.iinfo(dtype).max:
            return Stored(numbers.astype(dtype), scale)
    return None


def with_stored(
    func: tirx.PrimFunc, tables: Mapping[int, Stored]
) -> tuple[tirx.PrimFunc, frozenset[int]]:
    """A flat function that reads these parameters as whole numbers and scales them, and which
    of them it really does: one that is used otherwise than by reading stays as it is."""
    params, body = list(func.params), func.body
    done = set()
    for index, table in tables.items():
        old = params[index]
        new = tirx.decl_buffer(old.shape, str(table.values.dtype), old.name)
        changed = _read_as(body, old, new, table.scale)
        if not _mentions(changed, [old]):
            params[index], body = new, changed
            done.add(index)
    return tirx.PrimFunc(params, body, func.ret_type, func.attrs), frozenset(done)


def _read_as(body: tirx.Stmt, old: tirx.Buffer, new: tirx.Buffer, scale: float) -> tirx.Stmt:
    """Loads from a buffer, under whatever name, as loads from another; the body as it was if the
    buffer is used in any other way."""
    names = [(old, new)]

    def declare(stmt: tirx.DeclBuffer) -> tirx.Stmt:
        if stmt.data is None or not _mentions(stmt.data, [old]):
            return stmt
        flat = stmt.buffer
        names.append((flat, tirx.decl_buffer(flat.shape, str(new.dtype), flat.name)))
        return tirx.DeclBuffer(names[-1][1], data=new.data)

    def read(load: tvm.ir.TensorLoad) -> tvm.ir.Expr:
        for before, after in names:
            if load.source.same_as(before):
                value = tirx.Cast("float32", tirx.BufferLoad(after, list(load.indices)))
                return value if scale == 1.0 else tirx.Mul(value, tirx.FloatImm("float32", scale))
        return load

    declared = tvm_ffi.structural_map(body, (tirx.DeclBuffer, declare), order="post")
    changed = tvm_ffi.structural_map(declared, (tvm.ir.TensorLoad, read), order="post")
    return body if _mentions(changed, [before for before, _ in names]) else changed


def _mentions(node: tirx.Stmt | tvm.ir.Expr, buffers: Sequence[tirx.Buffer]) -> bool:
    found: list[tirx.Buffer] = []

    def note(var: tvm.ir.Var) -> tvm.ir.Var:
        found.extend(b for b in buffers if var.same_as(b))
        return var

    tvm_ffi.structural_map(node, (tvm.ir.Var, note), order="post")
    return bool(found)
