"""The law of streams for frames: what may be done to each, and nothing that mixes them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from microddsp.frontend.time_kinds import (
    FRAMES,
    LIFTED,
    POINTWISE,
    ROWS,
    TIME,
    VIEWS,
    aten,
    mixes,
    order_of,
    shape_of,
)

# Treat every row alone if they do not work along the first axis.
_ROWWISE = (
    aten.index.Tensor,
    aten.index_select.default,
    aten.select.int,
    aten.unsqueeze.default,
    aten.squeeze.dims,
    aten.sum.dim_IntList,
    aten.mean.dim,
    aten.amax.default,
    aten.amin.default,
    aten.constant_pad_nd.default,
    aten.cat.default,
    aten.mm.default,
    aten.addmm.default,
)

# May name the first axis without mixing along it, as long as its length stays.
_HARMLESS = (
    aten.slice.Tensor,
    aten._to_copy.default,
    aten.clone.default,
    aten.expand.default,
    aten.permute.default,
)


def frames_kind(node: fx.Node, sources: Sequence[fx.Node], kinds: dict[fx.Node, str]) -> str:
    source = next(n for n in sources if kinds[n] == FRAMES)
    before, shape = shape_of(source), shape_of(node)
    if node.target in VIEWS:
        return _viewed(node, kinds)
    if node.target is aten.permute.default and order_of(node)[-1] == 0:
        return TIME
    moved = node.target is aten.permute.default and order_of(node)[0] != 0
    if moved or shape[:1] != before[:1] or not _multiplies_rows(node, sources):
        raise mixes(node, "mixes frames with each other")
    if node.target not in _HARMLESS and _along_first(node, before):
        raise mixes(node, "mixes frames with each other")
    return FRAMES


def _viewed(node: fx.Node, kinds: dict[fx.Node, str]) -> str:
    """A view keeps frames apart, in their order, as long as its first axis counts whole ones."""
    shape = shape_of(node)
    counts = {shape_of(n)[0] for n, kind in kinds.items() if kind == FRAMES}
    if len(counts) == 1 and len(shape) > 1:
        count = next(iter(counts))
        if shape[0] == count:
            return FRAMES
        if shape[0] % count == 0:
            return ROWS
        if shape[0] == 1 and shape[1] % count == 0:
            return LIFTED
    raise mixes(node, "mixes frames with each other")


def _multiplies_rows(node: fx.Node, sources: Sequence[fx.Node]) -> bool:
    """A product of matrices whose rows are the stream's and whose columns are not."""
    position = {aten.mm.default: 0, aten.addmm.default: 1}.get(node.target)  # type: ignore[call-overload]
    return position is None or (len(sources) == 1 and node.args[position] is sources[0])


def rows_kind(node: fx.Node, sources: Sequence[fx.Node], kinds: dict[fx.Node, str]) -> str:
    """Only what treats each row alone, until the frames are an axis of their own again."""
    source = next(n for n in sources if kinds[n] == ROWS)
    shape, before = shape_of(node), shape_of(source)
    if node.target in VIEWS:
        return _viewed(node, kinds)
    if shape[:1] == before[:1] and _multiplies_rows(node, sources):
        if POINTWISE in getattr(node.target, "tags", ()):
            return ROWS
        if node.target is aten.permute.default:
            if order_of(node)[0] == 0:
                return ROWS
        elif node.target in _HARMLESS:
            return ROWS
        elif node.target in _ROWWISE and not _along_first(node, before):
            return ROWS
    raise mixes(node, "mixes frames with each other")


def lifted_kind(node: fx.Node, sources: Sequence[fx.Node], kinds: dict[fx.Node, str]) -> str:
    source = next(n for n in sources if kinds[n] == LIFTED)
    shape, before = shape_of(node), shape_of(source)
    if node.target in VIEWS:
        return _viewed(node, kinds)
    if shape[:2] == before[:2]:
        if POINTWISE in getattr(node.target, "tags", ()):
            return LIFTED
        if node.target is aten.constant_pad_nd.default:
            return LIFTED
        if node.target is aten.index.Tensor and node.args[1][:2] == [None, None]:  # type: ignore[index]
            return LIFTED
    raise mixes(node, "mixes frames with each other")


def _along_first(node: fx.Node, shape: tuple[int, ...]) -> bool:
    """Whether an operator that works along axes works along the first."""
    if node.target in (aten.index.Tensor, aten.index_put.default):
        return node.args[1][0] is not None  # type: ignore[index]
    arguments = getattr(getattr(node.target, "_schema", None), "arguments", ())
    for position, argument in enumerate(arguments):
        if argument.name in ("dim", "dims"):
            given = node.args[position] if position < len(node.args) else None
            given = node.kwargs.get(argument.name, given)
            if given is None:
                given = argument.default_value
            if given is None:
                return bool(shape_of(node) == () or shape_of(node)[:1] != shape[:1])
            axes = [given] if isinstance(given, int) else list(given)  # type: ignore[arg-type]
            return any(axis % len(shape) == 0 for axis in axes if isinstance(axis, int))
    return False
