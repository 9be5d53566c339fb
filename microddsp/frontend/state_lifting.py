"""Mutated buffers become inputs and outputs: TVM's importer would drop the mutation silently."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
)

from microddsp.errors import CompileError
from microddsp.frontend.diagnostics import place


@dataclass(frozen=True, slots=True)
class State:
    """A lifted buffer: C name, module path of the buffer, placeholder, value before the stream.
    A `setting` is a number that the model only reads."""

    name: str
    target: str
    placeholder: str
    initial: Tensor
    setting: bool = False


def separate_copies(program: torch.export.ExportedProgram) -> None:
    """Before decompositions: what is copied into a buffer is a node of its own, of its type.

    `buffer.copy_(x)` is decomposed to `x` itself, whatever its type; and one `x` cannot be the
    value of two buffers.
    """
    graph = program.graph
    for node in list(graph.nodes):
        if node.target is not torch.ops.aten.copy_.default:
            continue
        target, source = (argument.meta["val"] for argument in node.args[:2])
        with graph.inserting_before(node):
            own = graph.call_function(torch.ops.aten.clone.default, (node.args[1],))
            if source.dtype != target.dtype:
                own.target = torch.ops.aten._to_copy.default
                own.kwargs = {"dtype": target.dtype}
            own.meta = {**node.meta, "val": source.to(target.dtype)}
            if source.shape != target.shape:
                own = graph.call_function(torch.ops.aten.expand.default, (own, target.shape))
                own.meta = {**node.meta, "val": target}
        node.args = (node.args[0], own, *node.args[2:])
    program.graph_module.recompile()


def lift_states(program: torch.export.ExportedProgram, settings: Sequence[str] = ()) -> list[State]:
    """Rewrite the program in place: inputs then states in, outputs then new states out.

    Args:
        program: As torch exports it.
        settings: Paths of parameters and buffers that become states which keep their values.

    Raises:
        CompileError: An input is mutated, or an output is no tensor.
    """
    signature = program.graph_signature
    output = next(n for n in program.graph.nodes if n.op == "output")
    results = list(output.args[0])
    new_value: dict[str, fx.Node] = {}
    answers: list[tuple[fx.Node, OutputSpec]] = []
    for node, spec in zip(results, signature.output_specs, strict=True):
        if spec.kind == OutputKind.BUFFER_MUTATION:
            assert spec.target is not None
            new_value[spec.target] = node
        elif spec.kind == OutputKind.USER_OUTPUT:
            if not isinstance(node, fx.Node):
                raise CompileError(f"forward returns the constant {node!r}, not a tensor")
            answers.append((node, spec))
        elif spec.kind == OutputKind.USER_INPUT_MUTATION:
            raise CompileError(
                f"the module changes its input {spec.target!r} in place",
                where=place(node) if isinstance(node, fx.Node) else "",
                hint="work on a copy: x = x.clone()",
            )
        else:
            raise CompileError(f"outputs of kind {spec.kind} cannot be compiled")
    states: list[State] = []
    inputs: list[InputSpec] = []
    lifted: list[InputSpec] = []
    rest: list[InputSpec] = []
    values = dict(program.named_buffers())
    by_name = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for spec in signature.input_specs:
        if spec.kind == InputKind.BUFFER and spec.target in new_value:
            assert spec.target is not None
            initial = values[spec.target]
            name = _c_name(spec.target, {state.name for state in states})
            states.append(State(name, spec.target, spec.arg.name, initial))
            lifted.append(InputSpec(InputKind.USER_INPUT, spec.arg, None, None))
        elif spec.kind == InputKind.USER_INPUT:
            inputs.append(spec)
        elif spec.target is not None and spec.target.removeprefix("inner.") in settings:
            node = by_name[spec.arg.name]
            name = _c_name(spec.target.replace("design_", ""), {state.name for state in states})
            initial = {**values, **dict(program.named_parameters())}[spec.target]
            states.append(State(name, spec.target, spec.arg.name, initial.detach(), setting=True))
            new_value[spec.target] = node
            lifted.append(InputSpec(InputKind.USER_INPUT, spec.arg, None, None))
        else:
            rest.append(spec)
    output.args = (
        (*(node for node, _ in answers), *(new_value[state.target] for state in states)),
    )
    specs = [spec for _, spec in answers]
    for state in states:
        argument = torch.export.graph_signature.TensorArgument(name=new_value[state.target].name)
        specs.append(OutputSpec(OutputKind.USER_OUTPUT, argument, None))
    program._graph_signature = ExportGraphSignature([*inputs, *lifted, *rest], specs)
    for state in states:
        program.constants.pop(state.target, None)
        program.state_dict.pop(state.target, None)
    return states


def _c_name(target: str, taken: set[str]) -> str:
    name = re.sub(r"\W", "_", target.removeprefix("inner."), flags=re.ASCII)
    name = (name.replace("state_", "", 1) if "state_" in name else name).lstrip("_")
    unique, count = name, 1
    while unique in taken:
        count += 1
        unique = f"{name}_{count}"
    return unique
