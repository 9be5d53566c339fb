"""torch's scan: its body becomes a loop over samples, as it was written for one."""

from __future__ import annotations

import operator
import warnings
from typing import Any

import torch
from torch import Tensor, fx
from tvm import relax

from microddsp.frontend.decomposing import retrace
from microddsp.frontend.nodes import tensor_of
from microddsp.frontend.time_axis import SCAN
from microddsp.relax_ops.step_graph import zeros_for
from microddsp.schedules.scan_loop import scan_loop
from microddsp.schedules.scan_memory import Carried, Line, Stream

aten = torch.ops.aten
Node = Any  # fx.Node, whose arguments have types too wide to be checked
_BODY, _LAST = "microddsp.body", "microddsp.samples_last"
# A shorter line is as quickly moved.
SHORTEST_LINE = 8


def attach_bodies(program: torch.export.ExportedProgram) -> None:
    """Bodies from attributes of the graph, which the importer does not know, to their calls."""
    graph = program.graph
    for node in list(graph.nodes):
        if _is_scan(node) and isinstance(node.args[0], fx.Node):
            body = str(node.args[0].target)
            node.meta[_BODY] = getattr(program.graph_module, body)
            node.update_arg(0, None)
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)


def keep_samples_last(program: torch.export.ExportedProgram) -> None:
    """A signal that is turned for a scan, and turned back, is not turned at all."""
    for node in list(program.graph.nodes):
        if not _is_scan(node):
            continue
        last = node.meta[_LAST] = set()  # of the scanned tensors, then of the outputs
        _, carried, scanned, *_ = node.args
        for i, source in enumerate(scanned):
            if _turns(source):
                last.add(i)
        node.update_arg(2, tuple(s.args[0] if i in last else s for i, s in enumerate(scanned)))
        for item in list(node.users):
            output = item.args[1] - len(carried)
            if item.target is operator.getitem and output >= 0 and all(map(_turns, item.users)):
                last.add(len(scanned) + output)
                for user in list(item.users):
                    item.meta["val"] = user.meta["val"]
                    user.replace_all_uses_with(item)
    program.graph.eliminate_dead_code()


def _is_scan(node: Node) -> bool:
    return node.op == "call_function" and node.target is SCAN


def _turns(node: Node) -> bool:
    return (
        node.target is aten.permute.default
        and [d % 2 for d in node.args[1]] == [1, 0]
        and (len(node.args[1]) == 2)
    )


def convert_scan(node: Node, importer: Any) -> list[relax.Expr]:
    """The loop, called on initial states, signals and what the body reads besides."""
    from microddsp.frontend.importing import prepare, to_relax

    _, carried, scanned, extra = node.args
    count, last = len(carried), node.meta.get(_LAST, set())
    body, states = _with_lines(node.meta[_BODY], count)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = retrace(torch.export.export(body, tuple(zeros_for(body)), strict=False))
    prepare(program)
    inputs = [_stream(tensor_of(s), i in last) for i, s in enumerate(scanned)]
    outputs = [
        _stream(value if len(scanned) + i not in last else value.T, len(scanned) + i in last)
        for i, value in enumerate(node.meta["val"][count:])
    ]
    function, constants = scan_loop(to_relax(program), states, inputs, outputs)
    types = [relax.TensorType(s.shape, s.dtype) for s in states]
    types += [relax.TensorType(s.tensor_shape, s.dtype) for s in outputs]
    builder = importer.block_builder
    arguments = [importer.env[n] for n in (*carried, *scanned, *extra)]
    called = builder.emit(
        relax.call_tir(
            builder.add_func(function, "scan"),
            [*arguments, *constants],
            out_ty=types if len(types) > 1 else types[0],
        )
    )
    if len(types) == 1:
        return [called]
    return [builder.emit(relax.TupleGetItem(called, i)) for i in range(len(types))]


def _stream(value: Tensor | None, last: bool) -> Stream:
    assert value is not None
    shape = tuple(value.shape)
    sample, samples = (shape[:-1], shape[-1]) if last else (shape[1:], shape[0])
    return Stream(sample, samples, _dtype(value), last)


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _with_lines(body: fx.GraphModule, count: int) -> tuple[fx.GraphModule, list[Carried]]:
    """The body with delay lines taken out: it gets the taps that it reads, and gives new values."""
    body = _copy(body)
    graph = body.graph
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    result = next(n for n in graph.nodes if n.op == "output")
    states: list[Carried] = []
    results = list(result.args[0])
    for i, (before, after) in enumerate(zip(inputs[:count], list(results), strict=False)):
        value = before.meta["val"]
        line = _line(before, after)
        if line is None:
            states.append(Carried(tuple(value.shape), _dtype(value)))
            continue
        axis, newest_first, new = line
        reads = sorted({tap for u in before.users if (tap := _tap(u, axis)) is not None})
        states.append(Line(tuple(value.shape), _dtype(value), axis, tuple(reads), newest_first))
        results[i] = new
        result.args = (tuple(results),)
        for tap in reads:
            with graph.inserting_before(before):
                given = graph.placeholder(f"{before.name}_{tap}")
                given.meta["val"] = value.select(axis, 0)
            for user in list(before.users):
                if user.target is aten.select.int and _tap(user, axis) == tap:
                    user.replace_all_uses_with(given)
                    graph.erase_node(user)
        graph.eliminate_dead_code()
        graph.erase_node(before)
    graph.lint()
    body.recompile()
    return body, states


def _copy(body: fx.GraphModule) -> fx.GraphModule:
    graph = fx.Graph()
    graph.output(graph.graph_copy(body.graph, {}))
    return fx.GraphModule(body, graph)


def _line(before: Node, after: Node) -> tuple[int, bool, Node] | None:
    """(axis, whether the newest is first, new value) if a state is only ever shifted by one."""
    while getattr(after, "target", None) is aten.clone.default:
        after = after.args[0]
    if getattr(after, "target", None) is not aten.cat.default:
        return None
    parts, axis = after.args[0], (after.args[1] if len(after.args) > 1 else 0)
    value = before.meta["val"]
    if len(parts) != 2 or not value.dim():
        return None
    axis %= value.dim()
    length = value.shape[axis]
    if length < SHORTEST_LINE:
        return None
    for new, rest, newest_first in ((*parts, True), (*reversed(parts), False)):
        start, end = (0, length - 1) if newest_first else (1, length)
        if _slice(rest, before, axis) == (start, end) and new.meta["val"].shape[axis] == 1:
            others = [u for u in before.users if u is not rest]
            if list(rest.users) == [after] and all(_tap(u, axis) is not None for u in others):
                return axis, newest_first, new
    return None


def _slice(node: Node, source: Node, axis: int) -> tuple[int, int] | None:
    """Where a slice of `source` along `axis` starts and ends."""
    if node.target is not aten.slice.Tensor or node.args[0] is not source:
        return None
    where: list[Any] = [*node.args[1:], *(0, None, None, 1)[len(node.args) - 1 :]]
    dim, start, end, step = where
    size = source.meta["val"].shape[axis]
    if dim % source.meta["val"].dim() != axis or step != 1:
        return None
    return slice(start, end).indices(size)[:2]


def _tap(node: Node, axis: int) -> int | None:
    """The index of a value that is read alone."""
    if node.target is not aten.select.int:
        return None
    value = node.args[0].meta["val"]
    if node.args[1] % value.dim() != axis:
        return None
    return int(node.args[2]) % value.shape[axis]
