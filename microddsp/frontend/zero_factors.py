"""x * 0 and x / 0: TVM's simplifier takes the one for 0 and fails at the other."""

from __future__ import annotations

import math

import torch
from torch import fx

from microddsp.frontend.nodes import new_node, tensor_of

aten = torch.ops.aten


def keep_zero_factors(program: torch.export.ExportedProgram) -> None:
    """A zero becomes a tensor of one number, of which TVM does not know the value.

    So infinity times zero stays NaN, and the sign of a zero is that of the product.
    """
    graph = program.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in (aten.mul.Tensor, aten.div.Tensor):
            _keep(graph, node)
    program.graph_module.recompile()


def _keep(graph: fx.Graph, node: fx.Node) -> None:
    result, number = tensor_of(node), node.args[1]
    if result is None or not result.is_floating_point() or isinstance(number, fx.Node):
        return
    if not isinstance(number, int | float) or number != 0:
        return
    if node.target is aten.div.Tensor:  # x / 0 is x times infinity, of the zero's sign
        number = math.copysign(math.inf, number)
        node.target = aten.mul.Tensor
    value = torch.full((1,), float(number), dtype=result.dtype)
    with graph.inserting_before(node):
        made = new_node(
            graph,
            node,
            aten.full.default,
            ([1], float(number)),
            {"dtype": result.dtype},
            value=value,
        )
    node.args = (node.args[0], made)
