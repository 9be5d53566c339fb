"""Comparisons and bounds of mixed number types, which TVM's importer takes in the first one's."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from microddsp.frontend.nodes import cast, new_node, tensor_of

aten = torch.ops.aten
_COMPARISONS = tuple(
    getattr(getattr(aten, name), kind)
    for name in ("eq", "ne", "lt", "le", "gt", "ge")
    for kind in ("Scalar", "Tensor")
)
_COUNTING = (
    *_COMPARISONS,
    *(
        getattr(getattr(aten, name), kind)
        for name in ("add", "sub", "mul", "remainder", "fmod")
        for kind in ("Scalar", "Tensor")
    ),
    aten.div.Tensor,
    aten.div.Tensor_mode,
    aten.floor_divide.default,
    aten.clamp.default,
)
_LOGIC = (aten.logical_and.default, aten.logical_or.default, aten.logical_xor.default)


def compared(graph: fx.Graph, node: fx.Node) -> None:
    """x > 0.5 becomes x > 0 for integers, and fails for bytes: both sides of one wide type."""
    values = [tensor_of(argument) for argument in node.args]
    if node.target in _LOGIC:
        node.args = tuple(truth(graph, node, argument) for argument in node.args)
    if node.target not in _COMPARISONS:
        return
    types = {value.dtype for value in values if value is not None}
    if any(t.is_floating_point for t in types) or any(type(a) is float for a in node.args):
        wide = torch.float32
    else:
        wide = torch.int64 if torch.int64 in types else torch.int32
    node.args = tuple(
        cast(graph, node, argument, wide) if value is not None else argument
        for argument, value in zip(node.args, values, strict=True)
    )


def truth(graph: fx.Graph, node: fx.Node, x: Any) -> Any:
    """`x` as a boolean."""
    value = tensor_of(x)
    if value is None or value.dtype == torch.bool:
        return x
    return new_node(graph, node, aten.ne.Scalar, (x, 0), value=value != 0)


def bounded(graph: fx.Graph, node: fx.Node) -> None:
    """clamp of integers with one bound fails, and with crossed bounds gives the lower one."""
    result = tensor_of(node)
    if node.target is not aten.clamp.default or result is None:
        return
    given: list[Any] = [*node.args[1:], None, None]
    low: Any
    high: Any
    low, high = node.kwargs.get("min", given[0]), node.kwargs.get("max", given[1])
    if result.is_floating_point():
        if low is not None and high is not None and low > high:
            node.args, node.kwargs = (node.args[0], high, high), {}
        return
    x = node.args[0]
    limits = torch.iinfo(result.dtype)
    for bound, target in ((low, aten.maximum.default), (high, aten.minimum.default)):
        if bound is not None:
            number = min(max(int(bound), limits.min), limits.max)
            value = torch.full((), number, dtype=result.dtype)
            full = new_node(
                graph, node, aten.full.default, ([], number), {"dtype": result.dtype}, value=value
            )
            x = new_node(graph, node, target, (x, full))
    node.replace_all_uses_with(x)  # type: ignore[arg-type]


def outside(node: fx.Node) -> str:
    """Why a number does not go with integers: torch wraps it around to their type, silently."""
    numbers: list[Any] = [*node.args[1:], *node.kwargs.values()]
    types = [value.dtype for value in map(tensor_of, node.all_input_nodes) if value is not None]
    if node.target not in _COUNTING or not types:
        return ""
    common = types[0]
    for other in types[1:]:
        common = torch.promote_types(common, other)
    if common.is_floating_point or common in (torch.bool, torch.int64):
        return ""
    limits = torch.iinfo(common)
    for number in numbers:
        if type(number) is int and not limits.min <= number <= limits.max:
            return f"{number} does not fit {common}: cast the tensor to a wider type first"
    return ""
