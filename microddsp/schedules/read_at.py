"""Reading at places: `x[:, 3]`, `table[i]`, an embedding.

TVM's own kernel warns each time that it does not look where it reads. It need not: the front end
keeps every index inside (`frontend/indexing.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax, te, tirx


def read_at(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """`relax.take` as a kernel. A single index that is known stands in the kernel's text."""
    data, index = call.args
    axis = call.attrs.axis
    known = index.value.numpy() if isinstance(index, tvm.ir.GenericConst) else None
    single = int(known) if known is not None and known.ndim == 0 else None

    def take(x: te.Tensor, *indices: te.Tensor) -> te.Tensor:
        size = list(x.shape)
        places = list(indices[0].shape) if indices else []
        before = 0 if axis is None else axis % len(size)
        behind = before + len(places)

        def element(*at: tirx.Var) -> tirx.PrimExpr:
            i = indices[0](*at[before:behind]) if indices else tirx.const(single, "int64")
            if axis is None:
                return x(*_unflattened(i, size))
            return x(*at[:before], i, *at[behind:])

        rest = [] if axis is None else size[before + 1 :]
        return te.compute((*size[:before], *places, *rest), element, name="take")

    return builder.call_te(take, data, *([index] if single is None else []))


def _unflattened(i: tirx.PrimExpr, shape: Sequence[tirx.PrimExpr]) -> list[tirx.PrimExpr]:
    """The place of the i-th element of a tensor in its memory."""
    places: list[tirx.PrimExpr] = []
    for size in reversed(shape):
        places.insert(0, tirx.floormod(i, size))
        i = tirx.floordiv(i, size)
    return places
