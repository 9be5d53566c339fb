"""Writing at computed places: scatter, scatter_add, scatter_reduce, index_put."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from torch import fx
from tvm import relax, tirx
from tvm.script.ir_builder import tirx as T

from microddsp.errors import UnsupportedOperatorError
from microddsp.frontend.aten.loops import (
    Converter,
    Value,
    argument,
    cast,
    emit_kernel,
    kind_of,
    over,
    where,
)
from microddsp.frontend.diagnostics import place

Combine = Callable[[Value, Value], Value]


def _new(_old: Value, new: Value) -> Value:
    return new


def _greatest(old: Value, new: Value) -> Value:
    if str(new.ty) == "float32":
        return tirx.call_pure_extern("float32", "microddsp_max", old, new)
    return tirx.Select(tirx.GT(old, new), old, new)


def _least(old: Value, new: Value) -> Value:
    if str(new.ty) == "float32":
        return tirx.call_pure_extern("float32", "microddsp_min", old, new)
    return tirx.Select(tirx.LT(old, new), old, new)


_REDUCTIONS: dict[str, Combine] = {
    "sum": tirx.Add,
    "add": tirx.Add,
    "prod": tirx.Mul,
    "multiply": tirx.Mul,
    "amax": _greatest,
    "amin": _least,
}


def _copy(source: Value, target: Value, shape: Sequence[int]) -> None:
    over(shape, lambda i: T.buffer_store(target, source[tuple(i)], i))


def _write(target: Value, at: list[Value], new: Value, combine: Combine, inside: Value) -> None:
    """Store where an index that is computed lies in the tensor; torch raises where it does not."""

    def store() -> None:
        # read first: the printer would repeat the load inside the expression
        old = T.bind(target[tuple(at)])
        T.buffer_store(target, combine(old, new), at)

    if inside is None:
        store()
        return
    with T.If(inside), T.Then():
        store()


def _scatter(reduction: str | None) -> Converter:
    """`reduction` None: the call names it."""

    def convert(node: fx.Node, importer: Any) -> Any:
        shape, dtype = kind_of(node.meta["val"])
        x = cast(importer, argument(node, importer, 0), dtype)
        axis = int(argument(node, importer, 1, "dim")) % max(len(shape), 1)
        index = argument(node, importer, 2, "index")
        source = argument(node, importer, 3, "src")
        how = reduction if reduction is not None else argument(node, importer, 4, "reduce")
        if how not in ("", *_REDUCTIONS) or not argument(node, importer, 5, "include_self", True):
            raise UnsupportedOperatorError(
                f"scatter with reduction {how!r} or without the tensor itself is not supported",
                where=place(node),
            )
        combine = _REDUCTIONS.get(how, _new)
        extent = tuple(int(size) for size in index.ty.shape)
        given = [x, index]
        if isinstance(source, relax.Expr):
            given.append(cast(importer, source, dtype))
        known = isinstance(index, tvm.ir.GenericConst)

        def body(old: Value, indices: Value, *rest: Value) -> None:
            *sources, target = rest
            _copy(old, target, shape)

            def put(i: list[Value]) -> None:
                to = T.bind(indices[tuple(i)])
                at = [*i[:axis], to, *i[axis + 1 :]]
                new = sources[0][tuple(i)] if sources else tirx.const(source, dtype)
                inside = None if known else tirx.all(to >= 0, to < shape[axis])
                _write(target, at, T.bind(new), combine, inside)

            over(extent, put)

        return emit_kernel(importer, "scatter", given, [(shape, dtype)], body)

    return convert


def _index_put(node: fx.Node, importer: Any) -> Any:
    shape, dtype = kind_of(node.meta["val"])
    x = cast(importer, argument(node, importer, 0), dtype)
    listed: Any = node.args[1]
    indices = [None if i is None else importer.env[i] for i in listed]
    indices += [None] * (len(shape) - len(indices))
    if any(i is not None and not str(i.ty.dtype).startswith("int") for i in indices):
        raise UnsupportedOperatorError(
            "writing many values through a mask has no fixed shape",
            where=place(node),
            hint="use torch.where(mask, values, x)",
        )
    values = cast(importer, argument(node, importer, 2, "values"), dtype)
    combine = tirx.Add if argument(node, importer, 3, "accumulate", False) else _new
    axes = [axis for axis, i in enumerate(indices) if i is not None]
    rest = [axis for axis, i in enumerate(indices) if i is None]
    tensors = [i for i in indices if i is not None]
    shapes = [tuple(int(d) for d in i.ty.shape) for i in tensors]
    common = _broadcast(shapes)
    # the axes of the indices stay where they are if they are neighbours, else they go first
    first = axes[0] if axes[-1] - axes[0] == len(axes) - 1 else 0
    sizes = [shape[axis] for axis in rest]
    extent = (*sizes[:first], *common, *sizes[first:])
    value_shape = tuple(int(d) for d in values.ty.shape)

    def body(old: Value, new: Value, *others: Value) -> None:
        *tables, target = others
        _copy(old, target, shape)

        def put(i: list[Value]) -> None:
            picked = i[first : first + len(common)]
            kept = i[:first] + i[first + len(common) :]
            at: list[Value] = [0] * len(shape)
            inside = None
            for axis, position in zip(rest, kept, strict=True):
                at[axis] = position
            for axis, table, own in zip(axes, tables, shapes, strict=True):
                to = T.bind(table[tuple(where(picked, own))])
                size = tirx.const(shape[axis], str(table.dtype))
                to = T.bind(tirx.Select(to < 0, to + size, to))
                at[axis] = to
                fits = tirx.all(to >= 0, to < size)
                inside = fits if inside is None else tirx.all(inside, fits)
            _write(target, at, T.bind(new[tuple(where(i, value_shape))]), combine, inside)

        over(extent, put)

    return emit_kernel(importer, "index_put", [x, values, *tensors], [(shape, dtype)], body)


def _broadcast(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    rank = max(len(shape) for shape in shapes)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(max(sizes) for sizes in zip(*padded, strict=True))


SCATTERING: dict[str, Converter] = {
    "scatter.src": _scatter(""),
    "scatter.value": _scatter(""),
    "scatter.reduce": _scatter(None),
    "scatter.value_reduce": _scatter(None),
    "scatter_add.default": _scatter("sum"),
    "scatter_reduce.two": _scatter(None),
    "index_put.default": _index_put,
}
