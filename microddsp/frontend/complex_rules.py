"""What each operator on complex tensors is on pairs: the last axis holds both parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from microddsp.frontend.aten.fourier import full, half, inverse_half
from microddsp.frontend.nodes import tensor_of

aten = torch.ops.aten
Rule = Callable[..., Tensor]


def rule_of(node: fx.Node, pairs: dict[fx.Node, fx.Node]) -> Rule | None:
    """What computes the node from its tensors, complex ones as pairs, in the order of use."""
    made = _RULES.get(node.target)
    if made is not None:
        return made(node)
    if node.target in _ARITHMETIC:
        return _arithmetic(node, pairs)
    if node.target in _SHAPES:
        return _reshaped(node)
    return None


# ---- parts


def _parts(pair: Tensor) -> tuple[Tensor, Tensor]:
    return pair[..., 0], pair[..., 1]


def power(pair: Tensor) -> Tensor:
    real, imaginary = _parts(pair)
    return real * real + imaginary * imaginary


def _absolute(node: fx.Node) -> Rule:
    return lambda pair: torch.sqrt(power(pair))


def _angle(node: fx.Node) -> Rule:
    def angle(pair: Tensor) -> Tensor:
        real, imaginary = _parts(pair)
        return torch.atan2(imaginary, real)

    return angle


def _conjugate(node: fx.Node) -> Rule:
    def conjugate(pair: Tensor) -> Tensor:
        real, imaginary = _parts(pair)
        return torch.stack([real, -imaginary], -1)

    return conjugate


def _exponential(node: fx.Node) -> Rule:
    def exponential(pair: Tensor) -> Tensor:
        real, imaginary = _parts(pair)
        size = torch.exp(real)
        return torch.stack([size * torch.cos(imaginary), size * torch.sin(imaginary)], -1)

    return exponential


def _same(node: fx.Node) -> Rule:
    return lambda pair: pair.clone()


def _polar(node: fx.Node) -> Rule:
    return lambda size, angle: torch.stack([size * torch.cos(angle), size * torch.sin(angle)], -1)


def _padded(node: fx.Node) -> Rule | None:
    widths: Any = node.args[1]
    if len(node.args) > 2 and node.args[2] != 0:
        return None
    return lambda pair: torch.nn.functional.pad(pair, [0, 0, *widths])


# ---- transforms


def _r2c(node: fx.Node) -> Rule | None:
    axes, scale = _axes_and_scale(node)
    *others, last = axes
    onesided = bool(node.args[3])

    def transform(x: Tensor) -> Tensor:
        moved = x.movedim(last, -1)
        if onesided:
            pair = half(moved)
        else:
            pair = full(torch.stack([moved, torch.zeros_like(moved)], -1), True)
        pair = pair.movedim(-2, last)
        for axis in others:
            pair = full(pair.movedim(axis, -2), True).movedim(-2, axis)
        return pair if scale == 1.0 else pair * scale

    return transform


def _c2r(node: fx.Node) -> Rule | None:
    given: Any = node.args[3]
    count = int(given)
    axes, scale = _axes_and_scale(node, count)
    *others, last = axes

    def transform(pair: Tensor) -> Tensor:
        for axis in others:
            pair = full(pair.movedim(axis, -2), False).movedim(-2, axis)
        y = inverse_half(pair.movedim(last, -2), count).movedim(-1, last)
        return y if scale == 1.0 else y * scale

    return transform


def _c2c(node: fx.Node) -> Rule | None:
    axes, scale = _axes_and_scale(node)
    forward = bool(node.args[3])

    def transform(pair: Tensor) -> Tensor:
        for axis in axes:
            pair = full(pair.movedim(axis, -2), forward).movedim(-2, axis)
        return pair if scale == 1.0 else pair * scale

    return transform


def _axes_and_scale(node: fx.Node, last_size: int | None = None) -> tuple[list[int], float]:
    """Axes counted from the front, and the factor that torch's number of a norm stands for."""
    value = tensor_of(node.args[0])
    given: Any = node.args[1]
    assert value is not None
    axes = [int(axis) % value.dim() for axis in given]
    size = math.prod(value.shape[axis] for axis in axes)
    if last_size is not None:
        size = size // value.shape[axes[-1]] * last_size
    norm: Any = node.args[2]
    return axes, (1.0, 1 / math.sqrt(size), 1 / size)[int(norm)]


_RULES: dict[Any, Callable[[fx.Node], Rule | None]] = {
    aten._fft_r2c.default: _r2c,
    aten._fft_c2r.default: _c2r,
    aten._fft_c2c.default: _c2c,
    aten.abs.default: _absolute,
    aten.angle.default: _angle,
    aten._conj.default: _conjugate,
    aten._conj_physical.default: _conjugate,
    aten.conj_physical.default: _conjugate,
    aten.resolve_conj.default: _same,
    aten.exp.default: _exponential,
    aten.view_as_real.default: _same,
    aten.view_as_complex.default: _same,
    aten.clone.default: _same,
    aten.real.default: lambda node: lambda pair: pair[..., 0],
    aten.imag.default: lambda node: lambda pair: pair[..., 1],
    aten.complex.default: lambda node: (
        lambda re, im: torch.stack(torch.broadcast_tensors(re, im), -1)
    ),
    aten.polar.default: _polar,
    aten.constant_pad_nd.default: _padded,
    aten.neg.default: lambda node: lambda pair: -pair,
}


# ---- arithmetic

_ARITHMETIC = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)


def _arithmetic(node: fx.Node, pairs: dict[fx.Node, fx.Node]) -> Rule | None:
    if node.kwargs or len(node.args) != 2:
        return None
    complex_args = [a in pairs or isinstance(a, complex) for a in node.args]
    if node.target is aten.div.Tensor and complex_args[1]:
        return None

    def compute(*tensors: Tensor) -> Tensor:
        # all_input_nodes names a node once
        named = dict(zip(node.all_input_nodes, tensors, strict=True))
        (a, b), (c, d) = (_as_parts(x, named, pairs) for x in node.args)
        if node.target is aten.mul.Tensor:
            real, imaginary = _product(a, b, c, d)
        elif node.target is aten.div.Tensor:
            real, imaginary = a / c, b / c
        else:
            sign = 1 if node.target is aten.add.Tensor else -1
            real, imaginary = a + sign * c, b + sign * d
        shape = node.meta["val"].shape
        return torch.stack([_filled(real, shape, tensors), _filled(imaginary, shape, tensors)], -1)

    return compute


def _product(a: Any, b: Any, c: Any, d: Any) -> tuple[Any, Any]:
    """(a + ib)(c + id), without the terms of a real factor."""
    if isinstance(d, float) and d == 0.0:
        return a * c, b * c
    if isinstance(b, float) and b == 0.0:
        return a * c, a * d
    return a * c - b * d, a * d + b * c


def _as_parts(x: Any, named: dict[fx.Node, Tensor], pairs: dict[fx.Node, fx.Node]) -> Any:
    if isinstance(x, fx.Node):
        return _parts(named[x]) if x in pairs else (named[x], 0.0)
    number = complex(x)
    return number.real, number.imag


def _filled(part: Any, shape: Sequence[int], like: Sequence[Tensor]) -> Tensor:
    """A part that is one number, or is broadcast, as a tensor of the result's shape."""
    if not isinstance(part, Tensor):
        part = torch.full((), float(part), dtype=torch.float32, device=like[0].device)
    return part.expand(shape)


# ---- shapes: the same on pairs, whose last axis stays where it is

_SHAPES: dict[Any, str] = {
    aten.permute.default: "axes",
    aten.view.default: "shape",
    aten.reshape.default: "shape",
    aten._unsafe_view.default: "shape",
    aten.expand.default: "shape",
    aten.unsqueeze.default: "new axis",
    aten.squeeze.dims: "axes",
    aten.select.int: "axis",
    aten.slice.Tensor: "axis",
    aten.cat.default: "axis",
    aten.flip.default: "axes",
    aten.sum.dim_IntList: "axes",
    aten.mean.dim: "axes",
    aten.index.Tensor: "indices",
    aten.index_select.default: "axis",
}


def _reshaped(node: fx.Node) -> Rule | None:
    how = _SHAPES[node.target]
    first = node.args[0][0] if isinstance(node.args[0], list | tuple) else node.args[0]
    value = tensor_of(first)
    if value is None:
        return None
    rank = value.dim() + (how == "new axis")
    args: list[Any] = list(node.args)
    default: Any = 0 if node.target in (aten.slice.Tensor, aten.cat.default) else None
    given = args[1] if len(args) > 1 else default
    if how == "shape":
        sizes = list(node.meta["val"].shape)
        changed: Any = [*sizes, 2]
    elif how == "axes":
        changed = [int(axis) % rank for axis in given] if given else list(range(rank))
        if node.target is aten.permute.default:
            changed.append(rank)
    elif how == "indices":
        changed = given
    else:
        changed = int(given) % rank
    if how == "indices" and sum(i is not None for i in given) != 1:
        return None  # several may move axes to the front
    args[1:2] = [changed]

    def compute(*tensors: Tensor) -> Tensor:
        named = dict(zip(node.all_input_nodes, tensors, strict=True))
        values = fx.node.map_arg(tuple(args), lambda n: named[n])
        return node.target(*values, **node.kwargs)  # type: ignore[operator]

    return compute
