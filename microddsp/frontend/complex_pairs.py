"""Complex tensors become real ones with a last axis of two: real and imaginary part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from microddsp.frontend.complex_rules import power, rule_of
from microddsp.frontend.decomposing import all_decompositions
from microddsp.frontend.nodes import tensor_of

aten = torch.ops.aten


def split_complex(program: torch.export.ExportedProgram) -> None:
    """Rewrite the graph in place; what has no rule stays complex, and is refused later."""
    graph = program.graph
    pairs: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op == "placeholder":
            _constant(program, node, pairs)
            continue
        if node.op != "call_function":
            continue
        sources = [pairs.get(n, n) for n in node.all_input_nodes]
        if not any(n in pairs for n in node.all_input_nodes) and not _is_complex(node):
            continue
        rule = rule_of(node, pairs)
        if rule is None or any(_is_complex(n) for n in sources):
            continue
        with graph.inserting_before(node):
            made = _inline(graph, node, rule, sources)
            if node.target is aten.abs.default:
                _squared(graph, node, sources)
        if _is_complex(node):
            pairs[node] = made
        else:
            node.replace_all_uses_with(made)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def _is_complex(node: Any) -> bool:
    value = tensor_of(node)
    return value is not None and value.is_complex()


def _constant(
    program: torch.export.ExportedProgram, node: fx.Node, pairs: dict[fx.Node, fx.Node]
) -> None:
    """A complex constant is stored as a pair."""
    if not _is_complex(node):
        return
    spec = next(s for s in program.graph_signature.input_specs if s.arg.name == node.name)
    for table in (program.constants, program.state_dict):
        if spec.target in table:
            value = torch.view_as_real(table[spec.target].detach().resolve_conj()).contiguous()
            table[spec.target] = value
            node.meta = {**node.meta, "val": torch.view_as_real(node.meta["val"])}
            pairs[node] = node


def _squared(graph: fx.Graph, absolute: fx.Node, sources: Sequence[fx.Node]) -> None:
    """abs(x) ** 2 without the root."""
    for user in list(absolute.users):
        if user.target is aten.pow.Tensor_Scalar and user.args[1] == 2:
            user.replace_all_uses_with(_inline(graph, user, power, sources))


def _inline(
    graph: fx.Graph,
    like: fx.Node,
    function: Callable[..., Tensor],
    sources: Sequence[fx.Node],
) -> fx.Node:
    """The nodes of a function of tensors, traced on the shapes of `sources`."""
    distinct = list(dict.fromkeys(sources))
    order = [distinct.index(n) for n in sources]

    def call(*values: Tensor) -> Tensor:
        return function(*(values[i] for i in order))

    traced = make_fx(call, decomposition_table=all_decompositions())(
        *(n.meta["val"] for n in distinct)
    )
    known: dict[fx.Node, Any] = {}
    inputs = iter(distinct)
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            known[node] = next(inputs)
        elif node.op == "output":
            return known[node.args[0]]
        else:
            known[node] = graph.node_copy(node, lambda n: known[n])
            known[node].meta = {**like.meta, "val": node.meta.get("val")}
    raise AssertionError("a traced function has an output")
