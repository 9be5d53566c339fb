"""Small edits of an exported graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx


def tensor_of(node: Any) -> Tensor | None:
    """Shape and type of what a node gives; None if that is no tensor."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value if isinstance(value, Tensor) else None


def new_node(
    graph: fx.Graph,
    like: fx.Node,
    target: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    *,
    value: Any = None,
) -> fx.Node:
    """A call at the insertion point, from the user's line that `like` comes from."""
    made = graph.call_function(target, args, kwargs or {})
    made.meta = {**like.meta, "val": value if value is not None else like.meta.get("val")}
    return made


def cast(graph: fx.Graph, like: fx.Node, x: Any, dtype: torch.dtype) -> Any:
    """`x` as another type."""
    value = tensor_of(x)
    assert value is not None
    if value.dtype == dtype:
        return x
    return new_node(
        graph, like, torch.ops.aten._to_copy.default, (x,), {"dtype": dtype}, value=value.to(dtype)
    )
