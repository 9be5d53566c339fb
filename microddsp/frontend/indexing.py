"""Indices that TVM's importer reads out of bounds, or in another order than torch.

Where torch raises for an index, a device cannot: what it computes as an index and lies outside
reads the nearest element, so that no signal makes it read other memory.
"""

from __future__ import annotations

import torch
from torch import fx

from microddsp.frontend.nodes import new_node, tensor_of

aten = torch.ops.aten
_ALONG_AN_AXIS = (aten.index_select.default, aten.gather.default)


def keep_inside(graph: fx.Graph, node: fx.Node) -> None:
    """x[-1] and x[indices] read out of bounds where an index is negative or too large.

    What is known at compile time is folded again later.
    """
    x = tensor_of(node.args[0]) if node.args else None
    if x is None:
        return
    if node.target is aten.select.int:
        _, dim, index = node.args
        if isinstance(index, int) and index < 0:
            node.args = (node.args[0], dim, index + x.shape[dim])  # type: ignore[index]
    elif node.target is aten.index.Tensor:
        indices = list(node.args[1])  # type: ignore[arg-type]
        for dim, index in enumerate(indices):
            if isinstance(index, fx.Node):
                indices[dim] = _inside(graph, node, index, x.shape[dim])
        node.args = (node.args[0], indices)
    elif node.target in _ALONG_AN_AXIS:
        source, dim, index = node.args[:3]
        assert isinstance(dim, int) and isinstance(index, fx.Node)
        size = x.shape[dim] if x.dim() else 1
        node.args = (source, dim, _inside(graph, node, index, size), *node.args[3:])
    elif node.target in (aten.embedding.default, aten.take.default):
        source, index = node.args[:2]
        assert isinstance(index, fx.Node)
        size = x.numel() if node.target is aten.take.default else x.shape[0]
        node.args = (source, _inside(graph, node, index, size), *node.args[2:])


def _inside(graph: fx.Graph, like: fx.Node, index: fx.Node, size: int) -> fx.Node:
    value = tensor_of(index)
    if value is None or value.dtype in (torch.bool, torch.uint8):
        return index
    shifted = new_node(graph, like, aten.add.Tensor, (index, size), value=value)
    negative = new_node(graph, like, aten.lt.Scalar, (index, 0), value=value < 0)
    counted = new_node(graph, like, aten.where.self, (negative, shifted, index), value=value)
    return new_node(graph, like, aten.clamp.default, (counted, 0, size - 1), value=value)


def gather_scattered(graph: fx.Graph, node: fx.Node) -> None:
    """x[:, i, j] and x[i, :, j] are imported as an outer product: axes with an index go first."""
    if node.target is not aten.index.Tensor:
        return
    x, result = tensor_of(node.args[0]), tensor_of(node)
    indices = list(node.args[1])  # type: ignore[arg-type]
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    if x is None or result is None or len(axes) < 2 or len(axes) == len(indices):
        return
    rest = [axis for axis in range(x.dim()) if axis not in axes]
    order = axes + rest
    moved = new_node(
        graph, node, aten.permute.default, (node.args[0], order), value=x.permute(order)
    )
    # torch puts the result's new axes where the indices were if these are neighbours, else first
    new = result.dim() - len(rest)
    before = axes[0] if axes[-1] - axes[0] == len(axes) - 1 else 0
    back = [*range(new, new + before), *range(new), *range(new + before, result.dim())]
    picked = new_node(
        graph,
        node,
        aten.index.Tensor,
        (moved, [indices[axis] for axis in axes]),
        value=result.permute([back.index(i) for i in range(result.dim())]),
    )
    node.replace_all_uses_with(new_node(graph, node, aten.permute.default, (picked, back)))
