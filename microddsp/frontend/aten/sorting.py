"""Sorting by rank: how many come before each element. It takes the same time for all data."""

from __future__ import annotations

from typing import Any

from torch import fx
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from microddsp.frontend.aten.loops import (
    Converter,
    Value,
    argument,
    emit_kernel,
    is_nan,
    kind_of,
    over,
)


def _sort(axis_at: int) -> Converter:
    """sort.stable has an argument more before the axis than sort."""

    def convert(node: fx.Node, importer: Any) -> Any:
        results = [kind_of(value) for value in node.meta["val"]]
        shape, dtype = results[0]
        x = argument(node, importer, 0)
        axis = int(argument(node, importer, axis_at, "dim", -1)) % max(len(shape), 1)
        descending = bool(argument(node, importer, axis_at + 1, "descending", False))
        size = shape[axis]

        def before(a: Value, b: Value) -> Value:
            """NaN is greater than every number."""
            low, high = (b, a) if descending else (a, b)
            less = tirx.LT(low, high)
            if dtype != "float32":
                return less
            return tirx.Or(less, tirx.And(is_nan(high), tirx.Not(is_nan(low))))

        def body(source: Value, values: Value, indices: Value) -> None:
            rank = T.alloc_buffer((1,), "int32")

            def row(index: list[Value]) -> None:
                with T.serial(0, size) as i:
                    own = T.bind(source[(*index[:axis], i, *index[axis:])])
                    T.buffer_store(rank, tirx.const(0, "int32"), [0])
                    with T.serial(0, size) as j:
                        other = T.bind(source[(*index[:axis], j, *index[axis:])])
                        tied = tirx.And(tirx.LT(j, i), tirx.Not(before(own, other)))
                        ahead = tirx.Or(before(other, own), tied)
                        step = tirx.Select(ahead, tirx.const(1, "int32"), tirx.const(0, "int32"))
                        T.buffer_store(rank, rank[0] + step, [0])
                    at = [*index[:axis], T.bind(rank[0]), *index[axis:]]
                    T.buffer_store(values, own, at)
                    T.buffer_store(indices, tirx.Cast("int64", i), at)

            over((*shape[:axis], *shape[axis + 1 :]), row)

        return emit_kernel(importer, "sort", [x], results, body)

    return convert


SORTING: dict[str, Converter] = {"sort.default": _sort(1), "sort.stable": _sort(2)}
