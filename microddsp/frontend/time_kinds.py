"""What a tensor of a stream is: signal, frames, or something of one block."""

from __future__ import annotations

import torch
from torch import fx

from microddsp.errors import CompileError
from microddsp.frontend.diagnostics import place

aten = torch.ops.aten
POINTWISE = torch.Tag.pointwise
# ROWS: frames flattened with axes after them, as torch does for `Linear`: the first axis counts
# frames times something. LIFTED: rows under a first axis of one, as in the padding of `stft`.
TIME, FRAMES, ROWS, LIFTED, BLOCK = "time", "frames", "rows", "lifted", "block"
KIND = "microddsp.kind"  # of a node, in its `meta`
VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    value = value[0] if isinstance(value, tuple | list) and value else value
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def order_of(node: fx.Node) -> list[int]:
    """Where each axis of a permuted tensor comes from."""
    rank = len(shape_of(node))
    return [axis % rank for axis in node.args[1]]  # type: ignore[union-attr, operator, misc]


def mixes(node: fx.Node, what: str) -> CompileError:
    name = getattr(node.target, "__name__", str(node.target))
    return CompileError(
        f"{name} {what}: on a device it sees one block only, in training the whole signal",
        where=place(node),
        hint="use dsp.CausalConv1d (or dsp.GRU) for layers along a stream, or put "
        "dsp.Frames(length, hop) before layers that look at a stretch of time",
    )
