"""Changes of shape that cancel: between filters they would split the loop over samples."""

from __future__ import annotations

import torch
from torch import fx

from microddsp.frontend.nodes import new_node, tensor_of

aten = torch.ops.aten
_VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)


def simplify_views(program: torch.export.ExportedProgram) -> None:
    """Functions of single numbers come before views; of views in a row the last one stays."""
    graph = program.graph
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _VIEWS:
            _join(node)
        elif torch.Tag.pointwise in getattr(node.target, "tags", ()):
            _swap(graph, node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def _join(view: fx.Node) -> None:
    source = view.args[0]
    if isinstance(source, fx.Node) and source.target in _VIEWS:
        source = source.args[0]
        view.args = (source, *view.args[1:])
    value, before = tensor_of(view), tensor_of(source)
    if value is not None and before is not None and value.shape == before.shape:
        view.replace_all_uses_with(source)  # type: ignore[arg-type]


def _swap(graph: fx.Graph, node: fx.Node) -> None:
    """f(view(x)) as view(f(x)), where x is all that f reads."""
    value = tensor_of(node)
    if value is None or len(node.all_input_nodes) != 1:
        return
    view = node.all_input_nodes[0]
    source = view.args[0] if view.target in _VIEWS else None
    before = tensor_of(source)
    if before is None or node.args[0] is not view or value.shape != view.meta["val"].shape:
        return
    with graph.inserting_before(node):
        made = new_node(
            graph,
            node,
            node.target,  # type: ignore[arg-type]
            (source, *(source if a is view else a for a in node.args[1:])),
            dict(node.kwargs),
            value=value.reshape(before.shape),
        )
        again = new_node(graph, node, aten.view.default, (made, list(value.shape)), value=value)
    node.replace_all_uses_with(again)
    graph.erase_node(node)
