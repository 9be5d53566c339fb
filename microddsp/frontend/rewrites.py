"""Operators that TVM's importer would get wrong without saying so, written another way first.

Each case was seen to give wrong numbers; tests show both the wrong import and the mended one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from microddsp.errors import UnsupportedOperatorError
from microddsp.frontend.diagnostics import place

aten = torch.ops.aten
_ADDITIVE = (aten.add.Tensor, aten.sub.Tensor, aten.rsub.Tensor)
_ARITHMETIC = (
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.pow.Tensor_Scalar,
    aten.pow.Tensor_Tensor,
    aten.minimum.default,
    aten.maximum.default,
    aten.add.Scalar,
    aten.sub.Scalar,
    aten.mul.Scalar,
    aten.div.Scalar,
)
_PRODUCTS = (
    aten.mm.default,
    aten.bmm.default,
    aten.addmm.default,
    aten.matmul.default,
    aten.convolution.default,
    aten.baddbmm.default,
)

_DIVISIONS = (
    aten.div.Tensor_mode,
    aten.remainder.Scalar,
    aten.remainder.Tensor,
    aten.fmod.Scalar,
    aten.fmod.Tensor,
    aten.floor_divide.default,
)

_NEGATIONS = (aten.logical_not.default, aten.bitwise_not.default)
_ANY = (aten.any.default, aten.any.dim, aten.any.dims)


def mend(program: torch.export.ExportedProgram) -> None:
    """Rewrite the graph in place.

    Raises:
        UnsupportedOperatorError: A case that has no right form; all of them, with their lines.
    """
    graph = program.graph
    refused: list[str] = []
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        with graph.inserting_before(node):
            _alpha(graph, node)
            _negative_index(node)
            _negative_index_tensor(program, node)
            _promotion(graph, node)
            _scaled_elu(graph, node)
            _narrow_division(graph, node)
            _to_boolean(graph, node)
            _compared_with_itself(graph, node)
            _extreme_and_index(graph, node)
            _boolean_in_words(graph, node)
        reason = _refusal(node)
        if reason:
            refused.append(f"{reason} ({place(node)})")
    if refused:
        raise UnsupportedOperatorError(
            "this model uses what cannot be compiled:\n" + "\n".join(f"  - {r}" for r in refused)
        )
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def _value(node: Any) -> Tensor | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value if isinstance(value, Tensor) else None


def _new(
    graph: fx.Graph,
    like: fx.Node,
    target: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    *,
    value: Any = None,
) -> fx.Node:
    made = graph.call_function(target, args, kwargs or {})
    made.meta = {**like.meta, "val": value if value is not None else like.meta.get("val")}
    return made


def _alpha(graph: fx.Graph, node: fx.Node) -> None:
    """add(x, y, alpha=a) loses its alpha: the product is written out."""
    if node.target in _ADDITIVE and "alpha" in node.kwargs:
        alpha = node.kwargs["alpha"]
        x, y = node.args[0], node.args[1]
        value = _value(y)
        if isinstance(y, fx.Node) and value is not None:
            product = _new(graph, node, aten.mul.Tensor, (y, alpha), value=value * 1)
        else:
            product = y * alpha  # type: ignore[operator,assignment]
        node.args = (x, product)
        node.kwargs = {k: v for k, v in node.kwargs.items() if k != "alpha"}


def _negative_index(node: fx.Node) -> None:
    """x[-1] reads out of bounds: the index is counted from the front."""
    if node.target is aten.select.int:
        x, dim, index = node.args
        value = _value(x)
        if value is not None and isinstance(index, int) and index < 0:
            node.args = (x, dim, index + value.shape[dim])  # type: ignore[index]


def _negative_index_tensor(program: torch.export.ExportedProgram, node: fx.Node) -> None:
    if node.target not in (aten.index.Tensor, aten.index_select.default, aten.gather.default):
        return
    x = _value(node.args[0])
    if x is None:
        return
    if node.target is aten.index.Tensor:
        indices = list(node.args[1])  # type: ignore[arg-type]
        pairs = [(i, index) for i, index in enumerate(indices) if isinstance(index, fx.Node)]
    else:
        indices, pairs = [], [(node.args[1], node.args[2])]  # type: ignore[list-item]
    for dim, index in pairs:
        spec = next(
            (s for s in program.graph_signature.input_specs if s.arg.name == index.name), None
        )
        size = x.shape[dim]
        if spec is not None and spec.kind in (InputKind.CONSTANT_TENSOR, InputKind.BUFFER):
            assert spec.target is not None
            known = program.constants.get(spec.target)
            if known is not None and not known.dtype == torch.bool and bool((known < 0).any()):
                program.constants[spec.target] = torch.where(known < 0, known + size, known)
            continue
        # an index that is computed: counted from the front at run time
        value = _value(index)
        assert value is not None
        graph = program.graph
        shifted = _new(graph, node, aten.add.Tensor, (index, size), value=value)
        negative = _new(graph, node, aten.lt.Scalar, (index, 0), value=value < 0)
        chosen = _new(graph, node, aten.where.self, (negative, shifted, index), value=value)
        node.replace_input_with(index, chosen)
        negative.replace_input_with(chosen, index)
        shifted.replace_input_with(chosen, index)
        chosen.args = (negative, shifted, index)


def _promotion(graph: fx.Graph, node: fx.Node) -> None:
    """Types stay what they were (int / 7, int8 * 0.5): operands are cast to the result's type."""
    result = _value(node)
    if node.target not in _ARITHMETIC or result is None:
        return
    for argument in node.all_input_nodes:
        value = _value(argument)
        if value is not None and value.dtype != result.dtype:
            cast = _new(
                graph,
                node,
                aten._to_copy.default,
                (argument,),
                {"dtype": result.dtype},
                value=value.to(result.dtype),
            )
            node.replace_input_with(argument, cast)
    if not result.is_floating_point():
        return
    node.args = tuple(float(a) if type(a) is int and i else a for i, a in enumerate(node.args))


def _scaled_elu(graph: fx.Graph, node: fx.Node) -> None:
    """elu drops its scales (SELU): written as the choice that it is."""
    if node.target is not aten.elu.default:
        return
    x = node.args[0]
    given: list[Any] = list(node.args[1:])
    alpha, scale, input_scale = (*given, 1.0, 1.0, 1.0)[:3]
    value = _value(node)
    assert value is not None
    scaled = _new(graph, node, aten.mul.Tensor, (x, input_scale))
    below = _new(graph, node, aten.exp.default, (scaled,))
    below = _new(graph, node, aten.sub.Tensor, (below, 1.0))
    below = _new(graph, node, aten.mul.Tensor, (below, float(alpha) * float(scale)))
    above = _new(graph, node, aten.mul.Tensor, (x, scale))
    positive = _new(graph, node, aten.gt.Scalar, (x, 0), value=value > 0)
    chosen = _new(graph, node, aten.where.self, (positive, above, below))
    node.replace_all_uses_with(chosen)


def _narrow_division(graph: fx.Graph, node: fx.Node) -> None:
    """Divisions of short integers by a number fail: done in 32 bits, which is exact."""
    result = _value(node)
    if node.target not in _DIVISIONS or result is None or result.is_floating_point():
        return
    wide = torch.int64 if result.dtype == torch.int64 else torch.int32
    arguments = [_cast(graph, node, a, wide) if _value(a) is not None else a for a in node.args]
    quotient = _new(
        graph,
        node,
        node.target,
        tuple(arguments),
        dict(node.kwargs),
        value=result.to(wide),
    )
    node.replace_all_uses_with(_cast(graph, node, quotient, result.dtype))


def _cast(graph: fx.Graph, like: fx.Node, x: Any, dtype: torch.dtype) -> Any:
    value = _value(x)
    assert value is not None
    if value.dtype == dtype:
        return x
    return _new(graph, like, aten._to_copy.default, (x,), {"dtype": dtype}, value=value.to(dtype))


def _to_boolean(graph: fx.Graph, node: fx.Node) -> None:
    """A cast to bool truncates in C where bool is a byte: a comparison does not."""
    if node.target is not aten._to_copy.default or node.kwargs.get("dtype") != torch.bool:
        return
    source = _value(node.args[0])
    if source is None or source.dtype == torch.bool:
        return
    node.replace_all_uses_with(_new(graph, node, aten.ne.Scalar, (node.args[0], 0)))


def _compared_with_itself(graph: fx.Graph, node: fx.Node) -> None:
    """x != x asks for NaN, and TVM's simplifier knows none: asked by name."""
    if node.target not in (aten.ne.Tensor, aten.eq.Tensor) or node.args[0] is not node.args[1]:
        return
    value = _value(node.args[0])
    if value is None or not value.is_floating_point():
        return
    answer = _new(graph, node, aten.isnan.default, (node.args[0],))
    if node.target is aten.eq.Tensor:
        answer = _new(graph, node, aten.logical_not.default, (answer,))
    node.replace_all_uses_with(answer)


def _extreme_and_index(graph: fx.Graph, node: fx.Node) -> None:
    """max(dim) is imported as a sort, which has no kernel: values and indices on their own."""
    if node.target not in (aten.max.dim, aten.min.dim):
        return
    x, dim, keep = (*node.args, False)[:3]
    greatest = node.target is aten.max.dim
    for user in list(node.users):
        if user.target is not operator.getitem:
            continue
        with graph.inserting_before(user):
            if user.args[1] == 0:
                target = aten.amax.default if greatest else aten.amin.default
                made = _new(graph, user, target, (x, [dim], keep))
            else:
                target = aten.argmax.default if greatest else aten.argmin.default
                made = _new(graph, user, target, (x, dim, keep))
        user.replace_all_uses_with(made)


def _boolean_in_words(graph: fx.Graph, node: fx.Node) -> None:
    """Negation and any() are printed with C++'s `bool`: as comparisons of integers they are C."""
    source, result = _value(node.args[0]) if node.args else None, _value(node)
    if node.target not in (*_NEGATIONS, *_ANY) or source is None or result is None:
        return
    if result.dtype != torch.bool:
        return
    x = node.args[0]
    if source.dtype != torch.bool:
        x = _new(graph, node, aten.ne.Scalar, (x, 0), value=source != 0)
    x = _cast(graph, node, x, torch.int32)
    if node.target in _NEGATIONS:
        node.replace_all_uses_with(_new(graph, node, aten.lt.Scalar, (x, 1)))
        return
    dims, keep = (*node.args[1:], *([], False)[len(node.args) - 1 :])[:2]
    axes = [dims] if isinstance(dims, int) else dims or []
    most = _new(graph, node, aten.amax.default, (x, axes, keep), value=result.to(torch.int32))
    node.replace_all_uses_with(_new(graph, node, aten.gt.Scalar, (most, 0)))


def _refusal(node: fx.Node) -> str:
    name = getattr(node.target, "__name__", "").split(".")[0]
    if name.startswith("max_pool") and "with_indices" in name:
        for user in node.users:
            if user.target is operator.getitem and user.args[1] == 1 and user.users:
                return "indices of a maximum pool are not supported"
    result = _value(node)
    if node.target in _PRODUCTS and result is not None and not result.is_floating_point():
        return f"{name} of {result.dtype} is not supported; cast to float32 first"
    return ""
