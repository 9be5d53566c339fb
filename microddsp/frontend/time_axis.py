"""The law of streams: nothing may look along time except operators that keep a state."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import fx

from microddsp.frontend.frame_axes import frames_kind, lifted_kind, rows_kind
from microddsp.frontend.state_lifting import State
from microddsp.frontend.time_kinds import (
    BLOCK,
    FRAMES,
    KIND,
    LIFTED,
    POINTWISE,
    ROWS,
    TIME,
    aten,
    mixes,
    order_of,
    shape_of,
)

SCAN = torch.ops.higher_order.scan

# Operators of ours that keep no state: alone they make no stream.
_OVER_FRAMES = ("rfft", "spectrum", "bands")
_STATELESS = (*_OVER_FRAMES, "logarithm")

# What may be done to a signal (channels, samples) along its channels.
_BY_DIM = {
    aten.cat.default: 1,
    aten.stack.default: 1,
    aten.select.int: 1,
    aten.slice.Tensor: 1,
    aten.sum.dim_IntList: 1,
    aten.mean.dim: 1,
    aten.amax.default: 1,
    aten.amin.default: 1,
    aten.index_select.default: 1,
    aten.split_with_sizes.default: 2,
    aten.flip.default: 1,
    aten.cumsum.default: 1,
    aten.cumprod.default: 1,
    aten.cummax.default: 1,
    aten.cummin.default: 1,
    aten.logcumsumexp.default: 1,
    aten.prod.dim_int: 1,
    aten.var.correction: 1,
}


def stream_axes(program: torch.export.ExportedProgram, states: Sequence[State]) -> list[int | None]:
    """The axis along which each output continues from block to block. What each tensor is, is
    left in the node's `meta`.

    Raises:
        CompileError: A layer mixes samples of a stream that it sees only a block of.
    """
    nodes = list(program.graph.nodes)
    results = next(n for n in nodes if n.op == "output").args[0]
    outputs = results[: len(results) - len(states)]
    streaming = bool(states) or any(_ours(n) and _name(n) not in _STATELESS for n in nodes)
    if not streaming:
        return [None] * len(outputs)
    placeholders = {state.placeholder for state in states}
    user_inputs = set(program.graph_signature.user_inputs) - placeholders
    owners = {state.target.rpartition(".")[0] for state in states if not _is_block_state(state)}
    kinds: dict[fx.Node, str] = {}
    for node in nodes:
        if node.op == "placeholder":
            if node.name in user_inputs and node.meta["val"].dim() >= 2:
                kinds[node] = TIME
        elif node.op == "call_function":
            if node.target is SCAN:
                kind = _scanned(node, kinds, placeholders)
            else:
                kind = _kind(node, kinds, owners)
            if kind:
                kinds[node] = kind
    for node, kind in kinds.items():
        node.meta[KIND] = kind
    return [_axis(kinds.get(node)) for node in outputs]


def _axis(kind: str | None) -> int | None:
    return {TIME: -1, BLOCK: -1, FRAMES: 0, ROWS: 0}.get(kind or "")


def _is_block_state(state: State) -> bool:
    return state.target.rpartition(".")[2].startswith("state_")


def _ours(node: fx.Node) -> bool:
    return getattr(node.target, "namespace", "") == "microddsp"


def _kind(node: fx.Node, kinds: dict[fx.Node, str], owners: set[str]) -> str | None:
    sources = [n for n in node.all_input_nodes if n in kinds]
    if node.target is operator.getitem:
        source = node.args[0]
        if isinstance(source, fx.Node) and source.target is SCAN:
            carried = len(source.args[1])  # type: ignore[arg-type]
            return kinds.get(source) if int(node.args[1]) >= carried else None  # type: ignore[arg-type]
        if isinstance(source, fx.Node) and _ours(source):
            return _our_kind(source, int(node.args[1]))  # type: ignore[arg-type]
        return kinds.get(source) if isinstance(source, fx.Node) else None
    if _ours(node):
        if _name(node) in _OVER_FRAMES:
            return _over_frames(node, kinds)
        if _name(node) in _STATELESS:  # element by element
            return kinds.get(node.args[0])  # type: ignore[arg-type]
        return _our_kind(node, 0)
    if not sources:
        return None
    found = {kinds[n] for n in sources}
    if LIFTED in found:
        return lifted_kind(node, sources, kinds)
    if ROWS in found:
        return rows_kind(node, sources, kinds)
    if FRAMES in found:
        return frames_kind(node, sources, kinds)
    if _trusted(node, owners):
        return TIME if _keeps_time(node, kinds) else BLOCK
    if TIME in found:
        return _time(node, sources, kinds)
    return BLOCK


def _scanned(node: fx.Node, kinds: dict[fx.Node, str], states: set[str]) -> str | None:
    """Torch's scan along a stream continues it if what it carries starts from a state."""
    _, carried, scanned, *_ = node.args
    found = {kinds.get(n) for n in scanned}  # type: ignore[union-attr, arg-type]
    if found <= {None, BLOCK}:
        return BLOCK if BLOCK in found else None
    if found != {FRAMES} or not all(_from_state(n, states) for n in carried):  # type: ignore[union-attr, arg-type]
        raise mixes(node, "starts anew in every block")
    return FRAMES


def _from_state(node: fx.Node, states: set[str]) -> bool:
    """Whether a value is that of a state, perhaps in another shape."""
    while node.op == "call_function" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node.name in states


def _name(node: fx.Node) -> str:
    return str(node.target.__name__.split(".")[0])  # type: ignore[union-attr]


def _over_frames(node: fx.Node, kinds: dict[fx.Node, str]) -> str | None:
    """Operators that take a frame, or a column of bins, as a whole."""
    source = node.args[0]
    kind = kinds.get(source)  # type: ignore[arg-type]
    name, rank = _name(node), len(shape_of(source))  # type: ignore[arg-type]
    if kind in (None, BLOCK):
        return kind
    if name == "rfft" and kind in (FRAMES, ROWS) and rank > 1:
        return kind
    if name == "spectrum" and kind == FRAMES and rank == 3:
        return TIME
    if name == "bands" and (kind == TIME or (kind == FRAMES and rank > 2)):
        return kind
    raise mixes(node, "looks along time" if kind == TIME else "mixes frames with each other")


def _our_kind(node: fx.Node, item: int) -> str | None:
    name = _name(node)
    if name == "frames":
        return FRAMES if item == 0 else None
    if name == "event_counter":
        return (BLOCK, TIME, None)[item]
    if name == "first_sample":
        return None
    return TIME if item == 0 else None


def _trusted(node: fx.Node, owners: set[str]) -> bool:
    """Inside a user's module that keeps buffers of its own: it knows what it does."""
    stack = node.meta.get("nn_module_stack") or {}
    return any(path in owners for path, _ in stack.values())


def _keeps_time(node: fx.Node, kinds: dict[fx.Node, str]) -> bool:
    shape = shape_of(node)
    return bool(shape) and any(
        kind == TIME and shape[-1] == shape_of(n)[-1] for n, kind in kinds.items()
    )


def _time(node: fx.Node, sources: Sequence[fx.Node], kinds: dict[fx.Node, str]) -> str:
    shape = shape_of(node)
    samples = max(shape_of(n)[-1] for n in sources if kinds[n] == TIME)
    if POINTWISE in getattr(node.target, "tags", ()):
        for other in node.all_input_nodes:
            own = shape_of(other)
            if kinds.get(other) != TIME and own and own[-1] == samples > 1:
                raise mixes(node, "combines a stream with a constant as long as the block")
        return TIME
    if node.target in (aten._to_copy.default, aten.clone.default, aten.expand.default):
        return TIME
    if node.target is aten.permute.default:
        order = order_of(node)
        if order[-1] == len(order) - 1:
            return TIME
        if order[0] == len(order) - 1:
            return FRAMES
    if node.target in _BY_DIM and shape and shape[-1] == samples:
        rank = len(shape_of(sources[0]))
        dims = _dims(node)
        if dims is not None and all(d % rank != rank - 1 for d in dims):
            return TIME
    if node.target is aten.convolution.default:
        weight = shape_of(node.args[1])  # type: ignore[arg-type]
        if weight[2:] == (1,) and shape[-1] == samples:
            return TIME
    if (
        node.target
        in (aten.unsqueeze.default, aten.squeeze.dims, aten.view.default, aten.reshape.default)
        and shape
        and shape[-1] == samples
    ):
        return TIME
    raise mixes(node, "looks along time")


def _dims(node: fx.Node) -> list[int] | None:
    position = _BY_DIM[node.target]  # type: ignore[index]
    dims = node.args[position] if len(node.args) > position else node.kwargs.get("dim", 0)
    if isinstance(dims, int):
        return [dims]
    return list(dims) if dims else None  # type: ignore[arg-type]
