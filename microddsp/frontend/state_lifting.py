"""Mutated buffers become inputs and outputs: TVM's importer would drop the mutation silently."""

from __future__ import annotations

import re
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
    """A lifted buffer: C name, module path of the buffer, placeholder, value before the stream."""

    name: str
    target: str
    placeholder: str
    initial: Tensor


def lift_states(program: torch.export.ExportedProgram) -> list[State]:
    """Rewrite the program in place: inputs then states in, outputs then new states out.

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
    for spec in signature.input_specs:
        if spec.kind == InputKind.BUFFER and spec.target in new_value:
            assert spec.target is not None
            states.append(
                State(_c_name(spec.target), spec.target, spec.arg.name, values[spec.target])
            )
            lifted.append(InputSpec(InputKind.USER_INPUT, spec.arg, None, None))
        elif spec.kind == InputKind.USER_INPUT:
            inputs.append(spec)
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


def _c_name(target: str) -> str:
    name = re.sub(r"\W", "_", target.removeprefix("inner."))
    return name.replace("state_", "", 1) if "state_" in name else name
