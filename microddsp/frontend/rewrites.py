"""Operators that TVM's importer would get wrong without saying so, written another way first.

Each case was seen to give wrong numbers; tests show both the wrong import and the mended one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from microddsp.errors import UnsupportedOperatorError
from microddsp.frontend.bounds import bounded, compared, outside, truth
from microddsp.frontend.diagnostics import place
from microddsp.frontend.indexing import gather_scattered, keep_inside
from microddsp.frontend.nodes import cast, new_node, tensor_of

aten = torch.ops.aten
_ADDITIVE = (aten.add.Tensor, aten.sub.Tensor, aten.rsub.Tensor)
_DIVISIONS = (
    aten.div.Tensor_mode,
    aten.remainder.Scalar,
    aten.remainder.Tensor,
    aten.fmod.Scalar,
    aten.fmod.Tensor,
    aten.floor_divide.default,
)
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
    aten.reciprocal.default,
    aten.clamp.default,
    aten.where.self,
    *_DIVISIONS,
)
_PRODUCTS = (
    aten.mm.default,
    aten.bmm.default,
    aten.addmm.default,
    aten.matmul.default,
    aten.convolution.default,
    aten.baddbmm.default,
)

_SMALL_POWERS = range(3, 17)
_EXTREMES = (aten.amax.default, aten.amin.default, aten.max.default, aten.min.default)
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
        wrapped = outside(node)
        if wrapped:
            refused.append(f"{wrapped} ({place(node)})")
            continue
        with graph.inserting_before(node):
            _alpha(graph, node)
            keep_inside(graph, node)
            gather_scattered(graph, node)
            _promotion(graph, node)
            _small_power(graph, node)
            compared(graph, node)
            bounded(graph, node)
            _scaled_elu(graph, node)
            _narrow_division(graph, node)
            _remainder(graph, node)
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


def _small_power(graph: fx.Graph, node: fx.Node) -> None:
    """x ** 3 as products: the C library's power is far longer, and TVM warns of it each time."""
    result = tensor_of(node)
    if node.target is not aten.pow.Tensor_Scalar or result is None:
        return
    base, exponent = node.args
    if not isinstance(base, fx.Node) or not isinstance(exponent, int | float):
        return
    if exponent not in _SMALL_POWERS or not result.is_floating_point():
        return

    def times(a: fx.Node, b: fx.Node) -> fx.Node:
        return new_node(graph, node, aten.mul.Tensor, (a, b))

    left, square = int(exponent), base
    product: fx.Node | None = None
    while left > 1:
        if left % 2:
            product = square if product is None else times(product, square)
        square = times(square, square)
        left //= 2
    node.replace_all_uses_with(square if product is None else times(square, product))


def _remainder(graph: fx.Graph, node: fx.Node) -> None:
    """x - floor(x / y) * y is far off for large quotients; fmod is exact, and needs only a sign."""
    result = tensor_of(node)
    if node.target not in (aten.remainder.Scalar, aten.remainder.Tensor) or result is None:
        return
    if not result.is_floating_point():
        return
    kind = "Scalar" if node.target is aten.remainder.Scalar else "Tensor"
    divisor = node.args[1]
    truth_value = torch.ones_like(result, dtype=torch.bool)

    def make(target: Callable[..., Any], *args: Any, value: Any = result) -> fx.Node:
        return new_node(graph, node, target, args, value=value)

    left = make(getattr(aten.fmod, kind), node.args[0], divisor)
    below = make(aten.lt.Scalar, left, 0.0, value=truth_value)
    there = make(aten.ne.Scalar, left, 0.0, value=truth_value)
    if isinstance(divisor, fx.Node):
        negative = make(aten.lt.Scalar, divisor, 0.0, value=(tensor_of(divisor) == 0))
        differs = make(aten.logical_xor.default, below, negative, value=truth_value)
    else:
        positive = float(divisor) > 0.0  # type: ignore[arg-type]
        differs = below if positive else make(aten.logical_not.default, below, value=truth_value)
    wrong = make(aten.logical_and.default, there, differs, value=truth_value)
    moved = make(aten.add.Tensor, left, divisor)
    node.replace_all_uses_with(make(aten.where.self, wrong, moved, left))


def _alpha(graph: fx.Graph, node: fx.Node) -> None:
    """add(x, y, alpha=a) loses its alpha: the product is written out."""
    if node.target in _ADDITIVE and "alpha" in node.kwargs:
        alpha = node.kwargs["alpha"]
        x, y = node.args[0], node.args[1]
        value = tensor_of(y)
        if isinstance(y, fx.Node) and value is not None:
            result = tensor_of(node)
            y = cast(graph, node, y, value.dtype if result is None else result.dtype)
            product = new_node(graph, node, aten.mul.Tensor, (y, alpha), value=tensor_of(y))
        else:
            product = y * alpha  # type: ignore[operator,assignment]
        node.args = (x, product)
        node.kwargs = {k: v for k, v in node.kwargs.items() if k != "alpha"}


def _promotion(graph: fx.Graph, node: fx.Node) -> None:
    """Types stay what they were (int / 7, int8 * 0.5): operands are cast to the result's type."""
    result = tensor_of(node)
    if node.target not in _ARITHMETIC or result is None:
        return
    if result.dtype == torch.bool and node.target is not aten.where.self:
        words = tuple(
            cast(graph, node, a, torch.int32) if tensor_of(a) is not None else a for a in node.args
        )
        made = new_node(graph, node, node.target, words, value=result.to(torch.int32))
        node.replace_all_uses_with(new_node(graph, node, aten.ne.Scalar, (made, 0)))
        return
    condition = node.args[0] if node.target is aten.where.self else None
    for argument in node.all_input_nodes:
        value = tensor_of(argument)
        if value is not None and value.dtype != result.dtype and argument is not condition:
            made = new_node(
                graph,
                node,
                aten._to_copy.default,
                (argument,),
                {"dtype": result.dtype},
                value=value.to(result.dtype),
            )
            node.replace_input_with(argument, made)
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
    value = tensor_of(node)
    assert value is not None
    scaled = new_node(graph, node, aten.mul.Tensor, (x, input_scale))
    below = new_node(graph, node, aten.expm1.default, (scaled,))
    below = new_node(graph, node, aten.mul.Tensor, (below, float(alpha) * float(scale)))
    above = new_node(graph, node, aten.mul.Tensor, (x, scale))
    positive = new_node(graph, node, aten.gt.Scalar, (x, 0), value=value > 0)
    chosen = new_node(graph, node, aten.where.self, (positive, above, below))
    node.replace_all_uses_with(chosen)


def _narrow_division(graph: fx.Graph, node: fx.Node) -> None:
    """Divisions of short integers by a number fail: done in 32 bits, which is exact."""
    result = tensor_of(node)
    if node.target not in _DIVISIONS or result is None or result.is_floating_point():
        return
    wide = torch.int64 if result.dtype == torch.int64 else torch.int32
    arguments = [cast(graph, node, a, wide) if tensor_of(a) is not None else a for a in node.args]
    quotient = new_node(
        graph,
        node,
        node.target,
        tuple(arguments),
        dict(node.kwargs),
        value=result.to(wide),
    )
    node.replace_all_uses_with(cast(graph, node, quotient, result.dtype))


def _to_boolean(graph: fx.Graph, node: fx.Node) -> None:
    """A cast to bool truncates in C where bool is a byte: a comparison does not."""
    if node.target is not aten._to_copy.default or node.kwargs.get("dtype") != torch.bool:
        return
    source = tensor_of(node.args[0])
    if source is None or source.dtype == torch.bool:
        return
    node.replace_all_uses_with(new_node(graph, node, aten.ne.Scalar, (node.args[0], 0)))


def _compared_with_itself(graph: fx.Graph, node: fx.Node) -> None:
    """x != x asks for NaN, and TVM's simplifier knows none: asked by name."""
    if node.target not in (aten.ne.Tensor, aten.eq.Tensor) or node.args[0] is not node.args[1]:
        return
    value = tensor_of(node.args[0])
    if value is None or not value.is_floating_point():
        return
    answer = new_node(graph, node, aten.isnan.default, (node.args[0],))
    if node.target is aten.eq.Tensor:
        answer = new_node(graph, node, aten.logical_not.default, (answer,))
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
                made = new_node(graph, user, target, (x, [dim], keep))
            else:
                target = aten.argmax.default if greatest else aten.argmin.default
                made = new_node(graph, user, target, (x, dim, keep))
        user.replace_all_uses_with(made)


def _boolean_in_words(graph: fx.Graph, node: fx.Node) -> None:
    """Negation and any() are printed with C++'s `bool`: as comparisons of integers they are C."""
    source, result = tensor_of(node.args[0]) if node.args else None, tensor_of(node)
    if node.target not in (*_NEGATIONS, *_ANY, *_EXTREMES) or source is None or result is None:
        return
    if node.target in (*_NEGATIONS, *_EXTREMES) and result.dtype != torch.bool:
        return
    x = cast(graph, node, truth(graph, node, node.args[0]), torch.int32)
    if node.target in _EXTREMES:
        most = new_node(graph, node, node.target, (x, *node.args[1:]), value=result.to(torch.int32))
        node.replace_all_uses_with(new_node(graph, node, aten.gt.Scalar, (most, 0)))
        return
    if node.target in _NEGATIONS:
        node.replace_all_uses_with(new_node(graph, node, aten.lt.Scalar, (x, 1)))
        return
    dims, keep = (*node.args[1:], *([], False)[len(node.args) - 1 :])[:2]
    axes = [dims] if isinstance(dims, int) else dims or []
    most = new_node(graph, node, aten.amax.default, (x, axes, keep), value=result.to(torch.int32))
    found = new_node(graph, node, aten.gt.Scalar, (most, 0), value=result.bool())
    node.replace_all_uses_with(cast(graph, node, found, result.dtype))


def _refusal(node: fx.Node) -> str:
    name = getattr(node.target, "__name__", "").split(".")[0]
    if name.startswith("max_pool") and "with_indices" in name:
        for user in node.users:
            if user.target is operator.getitem and user.args[1] == 1 and user.users:
                return "indices of a maximum pool are not supported"
    result = tensor_of(node)
    if node.target is aten.bitwise_not.default and result is not None:
        if result.dtype == torch.uint8:
            return "~ of uint8 is not supported; write 255 - x"
    if node.target in _PRODUCTS and result is not None and not result.is_floating_point():
        return f"{name} of {result.dtype} is not supported; cast to float32 first"
    return ""
