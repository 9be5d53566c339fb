"""A user's step function as a graph: traced once, what depends on parameters only set apart."""

from __future__ import annotations

import operator
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions
from torch._guards import tracing
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import _disable_current_modes

from microddsp.errors import ParameterError

aten = torch.ops.aten
Node = Any  # fx.Node, whose arguments have types too wide to be checked

# (sample, states, parameters) -> (output, next states)
Flat = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], tuple[Tensor, Sequence[Tensor]]]


@dataclass(frozen=True, eq=False)
class StepGraph:
    """One sample as two graphs of torch operators.

    `prelude(*parameters)` gives the coefficients: everything that depends on parameters only, to
    be computed once. `body(*states, x, *coefficients)` gives the next states, then the output.
    """

    prelude: fx.GraphModule
    body: fx.GraphModule


def zeros_for(body: fx.GraphModule) -> list[Tensor]:
    """Arguments of the shapes and types that a body was traced with."""
    return [
        torch.zeros(tuple(n.meta["val"].shape), dtype=n.meta["val"].dtype)
        for n in body.graph.nodes
        if n.op == "placeholder"
    ]


def trace(
    function: Flat, x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor]
) -> StepGraph:
    """Trace a step on values of the right shapes.

    Raises:
        ParameterError: Its control flow depends on values, or it uses tensors that learn but are
            not its arguments.
    """
    count = len(states)

    def flat(*values: Tensor) -> tuple[Tensor, ...]:
        y, following = function(values[count], values[:count], values[count + 1 :])
        return (*following, y)

    try:
        # an export that is under way has shapes of its own
        with _disable_current_modes(), tracing(None):
            examples = [
                torch.zeros(tuple(v.shape), dtype=v.dtype) for v in (*states, x, *parameters)
            ]
            graph = _pure(flat, examples)
            if any(_changes(node) for node in graph.graph.nodes):  # a decomposition works in place
                graph = _pure(graph, examples)
    except ParameterError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise _explained(error) from error
    _check_constants(graph)
    graph.graph.eliminate_dead_code()
    return _split(graph, count + 1)


def _pure(function: Callable[..., Any], examples: Sequence[Tensor]) -> fx.GraphModule:
    """The graph with nothing done in place: a step may write into its state."""

    def copied(*values: Tensor) -> Any:
        return function(*(v.clone() for v in values))

    graph = make_fx(
        torch.func.functionalize(copied),
        decomposition_table=_core_decompositions(),
        tracing_mode="fake",
        _allow_non_fake_inputs=True,
    )(*examples)
    for node in list(graph.graph.nodes):
        if node.target is aten.clone.default and node.args[0].op == "placeholder":
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    _read_through(graph.graph)
    return graph


@cache
def _core_decompositions() -> dict[Any, Callable[..., Any]]:
    """Made once: torch looks through all operators for it. Composite ones that a user registers
    later are taken apart before the tracer sees them."""
    return dict(core_aten_decompositions().items())


def _read_through(graph: fx.Graph) -> None:
    """What is read of a tensor that was written in parts, from the part or from before: a
    `GRUCell` works in place in thirds of one tensor."""
    for node in list(graph.nodes):
        part = _part(node)
        if part is None:
            continue
        source, dim, start, end = part
        found = source
        while found.target is aten.slice_scatter.default:
            base, written, *where = found.args
            span = _span(base, where)
            if span == (dim, start, end):
                found = written
                break
            if span is None or span[0] != dim or (start < span[2] and span[1] < end):
                break
            found = base
        if found is source:
            continue
        if found.meta["val"].shape != node.meta["val"].shape:
            with graph.inserting_before(node):
                found = graph.call_function(aten.slice.Tensor, (found, dim, start, end))
                found.meta = dict(node.meta)
        node.replace_all_uses_with(found)
    graph.eliminate_dead_code()


def _part(node: Node) -> tuple[Node, int, int, int] | None:
    """(source, dim, start, end) if a node is a stretch of another along one axis."""
    if node.target is aten.slice.Tensor:
        span = _span(node.args[0], node.args[1:])
        return None if span is None else (node.args[0], *span)
    split: Node = node.args[0] if node.target is operator.getitem else None
    if getattr(split, "target", None) is not aten.split_with_sizes.default:
        return None
    arguments: list[Any] = [*split.args, 0]
    source, sizes, dim = arguments[:3]
    start = sum(sizes[: node.args[1]])
    return source, dim % source.meta["val"].dim(), start, start + sizes[node.args[1]]


def _span(source: Node, where: Sequence[Any]) -> tuple[int, int, int] | None:
    given: list[Any] = [*where, *(0, None, None, 1)[len(where) :]]
    dim, start, end, step = given
    if step != 1:
        return None
    dim %= source.meta["val"].dim()
    first, last, _ = slice(start, end).indices(source.meta["val"].shape[dim])
    return dim, first, last


def _changes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


_BY_VALUE = ("data-dependent", "DataDependent", ".item()", "Boolean value", "Python scalars")


def _explained(error: Exception) -> ParameterError:
    text = str(error).strip()
    where = _user_line(error)
    if any(sign in f"{error!r} {text}" for sign in _BY_VALUE):
        return ParameterError(
            "a step chooses by the value of a sample",
            where=where,
            hint="torch.where(condition, yes, no) compiles and has gradients; "
            "if, while and float() of a tensor do not",
        )
    first = text.splitlines()[0] if text else type(error).__name__
    return ParameterError(f"the step fails: {first}", where=where)


def _user_line(error: Exception) -> str:
    """The innermost line that is neither torch's nor ours."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "/torch/" not in frame.filename and "/microddsp/" not in frame.filename:
            return f"{frame.filename}:{frame.lineno}"
    return "Recurrence"


def _check_constants(graph: fx.GraphModule) -> None:
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value = getattr(graph, str(node.target))
            if isinstance(value, Tensor) and value.requires_grad:
                raise ParameterError(
                    f"the step uses a parameter of shape {tuple(value.shape)} that is not its "
                    "argument: it would not learn",
                    where="Recurrence",
                    hint="give it in parameters={...}, or write the step as a torch.nn.Module",
                )


def _split(graph: fx.GraphModule, varying: int) -> StepGraph:
    placeholders = [n for n in graph.graph.nodes if n.op == "placeholder"]
    changing = set(placeholders[:varying])
    fixed = set(placeholders[varying:])
    for node in graph.graph.nodes:
        if node.op == "call_function":
            if any(n in changing for n in node.all_input_nodes):
                changing.add(node)
            elif any(n in fixed for n in node.all_input_nodes):
                fixed.add(node)
    results = next(n for n in graph.graph.nodes if n.op == "output")
    frontier = [
        n
        for n in graph.graph.nodes
        if n in fixed and any(u in changing or u is results for u in n.users)
    ]
    prelude = _copied(graph, placeholders[varying:], frontier)
    body = _copied(graph, [*placeholders[:varying], *frontier], list(results.args[0]))
    return StepGraph(prelude, body)


def _copied(
    graph: fx.GraphModule, inputs: Sequence[Node], outputs: Sequence[Any]
) -> fx.GraphModule:
    """What computes `outputs` from `inputs`."""
    new = fx.Graph()
    known: dict[fx.Node, Node] = {}
    for i, node in enumerate(inputs):
        known[node] = new.placeholder(f"arg{i}")
        known[node].meta = dict(node.meta)

    def copy(node: Node) -> Node:
        if node not in known:
            for source in node.all_input_nodes:
                copy(source)
            known[node] = new.node_copy(node, lambda n: known[n])
        return known[node]

    new.output(tuple(copy(node) if isinstance(node, fx.Node) else node for node in outputs))
    new.eliminate_dead_code()
    return fx.GraphModule(graph, new)
