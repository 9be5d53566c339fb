"""Kernels written as loops, for operators whose steps depend on each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import fx
from tvm import relax, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

Value = Any  # a TIR expression; tvm has no types
Converter = Callable[[fx.Node, Any], Any]
Kind = tuple[tuple[int, ...], str]


def kind_of(value: torch.Tensor) -> Kind:
    """Shape and type name of what torch gives."""
    return tuple(value.shape), str(value.dtype).removeprefix("torch.")


def argument(
    node: fx.Node, importer: Any, position: int, name: str = "", default: Any = None
) -> Any:
    """An argument by position or name, as Relax sees it if it is a tensor."""
    given = node.args[position] if position < len(node.args) else node.kwargs.get(name, default)
    return importer.env[given] if isinstance(given, fx.Node) else given


def cast(importer: Any, x: relax.Expr, dtype: str) -> relax.Expr:
    """`x` as another type."""
    if str(x.ty.dtype) == dtype:
        return x
    return importer.block_builder.emit(relax.op.astype(x, dtype))


def emit_kernel(
    importer: Any,
    name: str,
    arguments: Sequence[relax.Expr],
    results: Sequence[Kind],
    body: Callable[..., None],
) -> Any:
    """Call a new function; `body` gets the buffers of arguments, then results, and builds it.

    Returns:
        One expression, or a list if there are several results.
    """
    kinds = [(tuple(int(d) for d in a.ty.shape), str(a.ty.dtype)) for a in arguments]
    with IRBuilder() as builder, T.prim_func(private=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        names = [f"in{i}" for i in range(len(kinds))] + [f"out{i}" for i in range(len(results))]
        body(
            *(
                T.arg(label, tirx.decl_buffer(shape, dtype, label))
                for label, (shape, dtype) in zip(names, [*kinds, *results], strict=True)
            )
        )
    block = importer.block_builder
    types = [relax.TensorType(shape, dtype) for shape, dtype in results]
    function = block.add_func(builder.get(), name)
    called = block.emit(
        relax.call_tir(function, list(arguments), out_ty=types if len(types) > 1 else types[0])
    )
    if len(types) == 1:
        return called
    return [block.emit(relax.TupleGetItem(called, i)) for i in range(len(types))]


def over(shape: Sequence[int], body: Callable[[list[Value]], None]) -> None:
    """Loops over every index of a shape, the last axis innermost; none where a size is 1."""
    with ExitStack() as stack:
        body([0 if size == 1 else stack.enter_context(T.serial(0, size)) for size in shape])


def where(index: Sequence[Value], shape: Sequence[int]) -> list[Value]:
    """The index into an operand that broadcasts: last axes meet, axes of size 1 stay at 0."""
    last = index[len(index) - len(shape) :]
    return [0 if size == 1 else i for i, size in zip(last, shape, strict=True)]


def is_nan(x: Value) -> Value:
    """Unequal to itself, as a plain node: TVM's own operator would simplify it away."""
    return tirx.NE(x, x)
