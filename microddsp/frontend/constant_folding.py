"""What depends on parameters only is computed once, by torch, at compile time."""

from __future__ import annotations

from itertools import count
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    TensorArgument,
)

# Nodes that say nothing about values: their input passes through.
_TRANSPARENT = (
    torch.ops.aten.alias.default,
    torch.ops.aten.detach.default,
    torch.ops.aten.lift_fresh_copy.default,
    torch.ops.aten.clone.default,
)
_ASSERTIONS = (
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten._assert_scalar.default,
)


def fold_constants(program: torch.export.ExportedProgram) -> None:
    """Replace parameter-only subgraphs by constants, in place; drop what nobody reads."""
    graph = program.graph
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _ASSERTIONS:
            graph.erase_node(node)
        elif node.target in _TRANSPARENT:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    known = _evaluate(program)
    needed = [
        node
        for node in graph.nodes
        if id(node) in known
        and node.op == "call_function"
        and any(id(user) not in known for user in node.users)
    ]
    specs = list(program.graph_signature.input_specs)
    first = next(iter(graph.nodes))
    taken = {node.name for node in graph.nodes}
    for node in needed:
        value = known[id(node)]
        if not isinstance(value, Tensor):
            continue
        name = next(n for i in count() if (n := f"folded_{i}") not in taken)
        taken.add(name)
        with graph.inserting_before(first):
            constant = graph.placeholder(name)
        constant.meta = dict(node.meta)
        program.constants[name] = value.contiguous()
        specs.append(
            InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(constant.name), name, None)
        )
        for user in [u for u in node.users if id(u) not in known]:
            user.replace_input_with(node, constant)
    _drop_unused(program, specs)


def constants(program: torch.export.ExportedProgram) -> dict[str, Tensor]:
    """Values of the placeholders that are no inputs, by node name."""
    tables = {
        InputKind.PARAMETER: program.state_dict,
        InputKind.BUFFER: dict(program.named_buffers()),
        InputKind.CONSTANT_TENSOR: program.constants,
    }
    return {
        spec.arg.name: tables[spec.kind][spec.target]
        for spec in program.graph_signature.input_specs
        if spec.kind in tables
    }


_COPYING: dict[Any, Any] = {torch.ops.aten.view.default: torch.ops.aten.reshape.default}


def _evaluate(program: torch.export.ExportedProgram) -> dict[int, Any]:
    """Values of all nodes that depend on constants only, by id."""
    given = constants(program)
    known: dict[int, Any] = {}

    def value_of(argument: Any) -> Any:
        return fx.node.map_arg(argument, lambda n: known[id(n)])

    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "placeholder" and node.name in given:
                known[id(node)] = given[node.name]
            elif node.op == "call_function":
                if not all(id(n) in known for n in node.all_input_nodes):
                    continue
                # our rules rewrite operators without their strides: a view may need a copy
                target = _COPYING.get(node.target, node.target)
                known[id(node)] = target(*value_of(node.args), **value_of(node.kwargs))
    return known


def _drop_unused(program: torch.export.ExportedProgram, specs: list[InputSpec]) -> None:
    graph = program.graph
    graph.eliminate_dead_code()
    by_name = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    kept = []
    for spec in specs:
        node = by_name[spec.arg.name]
        if spec.kind == InputKind.USER_INPUT or node.users:
            kept.append(spec)
            continue
        graph.erase_node(node)
        program.constants.pop(spec.target, None)
        program.state_dict.pop(spec.target, None)
    program._graph_signature = ExportGraphSignature(
        kept, list(program.graph_signature.output_specs)
    )
    named = {spec.target for spec in kept}
    # the importer binds every constant by its spec: one without would bind another's value
    for table in (program.constants, program.state_dict):
        for name in [n for n in table if n not in named]:
            del table[name]
    program.graph_module.recompile()
