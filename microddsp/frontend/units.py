"""Which module of the user, or which line of a forward, every operator of a graph comes from."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from torch import Tensor, fx, nn

from microddsp.dsp.block import Block
from microddsp.frontend.time_kinds import FRAMES, KIND, TIME, shape_of
from microddsp.outline import INPUT, Unit

RESULT = "microddsp.result"
_MOVES = ("view", "clone", "unsqueeze", "squeeze", "alias")


def units_of(
    program: Any, module: nn.Module, inputs: Sequence[str], states: Mapping[str, str]
) -> tuple[tuple[Unit, ...], tuple[int, ...], dict[fx.Node, int]]:
    """Units in order, those of the outputs, and the unit of each node that computes.

    Args:
        program: The exported program, all rewriting done.
        module: What was exported.
        inputs: Names of the inputs.
        states: Names of states by their placeholders.
    """
    modules = dict(module.named_modules())
    kinds: list[tuple[str, str]] = []
    number: dict[object, int] = {}
    unit: dict[fx.Node, int] = {}
    members: list[list[fx.Node]] = []
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    owned = [n for n in placeholders if n.name not in states and _is_input(program, n)]
    for node, name in zip(owned, inputs, strict=False):
        unit[node] = len(kinds)
        kinds.append((name, INPUT))
        members.append([node])
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        key, path, kind = _owner(node, modules)
        before = [unit[n] for n in node.all_input_nodes if n in unit]
        if before and (_is_move(node, key) or not node.meta.get("nn_module_stack")):
            unit[node] = max(before)
        else:
            if key not in number:
                number[key] = len(kinds)
                kinds.append((path, kind))
                members.append([])
            unit[node] = number[key]
        members[unit[node]].append(node)
    units = tuple(
        _unit(i, path, kind, members[i], unit, states) for i, (path, kind) in enumerate(kinds)
    )
    results = next(n for n in program.graph.nodes if n.op == "output").args[0]
    outputs = tuple(unit.get(n, 0) for n in results if isinstance(n, fx.Node))
    return units, outputs, unit


def _is_input(program: Any, node: fx.Node) -> bool:
    return node.name in program.graph_signature.user_inputs


def _owner(node: fx.Node, modules: Mapping[str, nn.Module]) -> tuple[object, str, str]:
    """A key for the unit, the module's path and what it is: the outermost of our blocks, else the
    innermost layer of torch, else the node itself."""
    stack = node.meta.get("nn_module_stack") or {}
    layers: list[tuple[str, str, nn.Module]] = []
    for key, (path, _) in stack.items():
        found = modules.get(path)
        if isinstance(found, Block):
            return key, path.removeprefix("inner."), type(found).__name__
        if found is not None:
            layers.append((key, path, found))
    name = str(getattr(node.target, "__name__", node.target)).split(".")[0]
    if not layers:
        return node, "", name
    key, path, layer = layers[-1]
    path = "" if path == "inner" else path.removeprefix("inner.")
    if type(layer).__module__.startswith("torch.nn.modules.") and not list(layer.children()):
        return key, path, type(layer).__name__
    return node, path, name


def _is_move(node: fx.Node, key: object) -> bool:
    """It hands on a tensor, perhaps in another shape or type: no unit of its own."""
    moves = str(getattr(node.target, "__name__", "")).split(".")[0] in _MOVES
    return node.target is operator.getitem or (key is node and moves)


def _unit(
    index: int,
    path: str,
    kind: str,
    nodes: Sequence[fx.Node],
    unit: Mapping[fx.Node, int],
    states: Mapping[str, str],
) -> Unit:
    inputs = {unit[n] for node in nodes for n in node.all_input_nodes if n in unit}
    read = {
        states[n.name]: None for node in nodes for n in node.all_input_nodes if n.name in states
    }
    named = [n for n in nodes if n.target is not operator.getitem]
    names = [str(getattr(n.target, "__name__", n.target)).split(".")[0] for n in named]
    made = nodes[0] if kind == INPUT else _value(nodes, unit, index)
    return Unit(
        path=path,
        kind=kind,
        operators=tuple(dict.fromkeys(names)) if kind != INPUT else (),
        inputs=tuple(sorted(i for i in inputs if i < index)),
        shape=shape_of(made) if made is not None else (),
        dtype=_dtype(made) if made is not None else "float32",
        states=tuple(read),
        per_block=_per_block(made) if made is not None else None,
    )


def _dtype(node: fx.Node) -> str:
    return str(node.meta["val"].dtype).removeprefix("torch.")


def _per_block(node: fx.Node) -> int | None:
    axis = {TIME: -1, FRAMES: 0}.get(node.meta.get(KIND, ""))
    return None if axis is None else shape_of(node)[axis]


def _value(nodes: Sequence[fx.Node], unit: Mapping[fx.Node, int], index: int) -> fx.Node | None:
    """What a unit hands on: the tensor that others read, or the last one."""
    tensors = [n for n in nodes if isinstance(n.meta.get("val"), Tensor)]
    read = [n for n in tensors if any(unit.get(u, index) != index for u in n.users)]
    items = [n for n in tensors if n.target is operator.getitem and n.args[1] == 0]
    chosen = (read or items or tensors)[-1:]
    return chosen[0] if chosen else None


def binding_units(main: Any, nodes: Any, unit: Mapping[fx.Node, int]) -> list[int | None]:
    """The unit of each binding of an imported function. Converters leave their result in the
    node's `meta`; what was emitted before it belongs to the same node."""
    bindings = [b for block in main.body.blocks for b in block.bindings]
    place = {b.var.name: i for i, b in enumerate(bindings)}
    found: list[int | None] = [None] * len(bindings)
    done = 0
    for node in nodes:
        if node.op != "call_function" or node not in unit:
            continue
        made = node.meta.pop(RESULT, None)
        made = made if isinstance(made, list | tuple) else [made]
        at = [place[v.name] for v in made if isinstance(v, tvm.relax.Var) and v.name in place]
        for i in range(done, max(at, default=-1) + 1):
            found[i] = unit[node]
        done = max([done, *(i + 1 for i in at)])
    return found
