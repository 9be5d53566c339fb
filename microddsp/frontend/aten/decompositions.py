"""Operators written with others, in torch: what is right there is right on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def decompositions() -> dict[Any, Callable[..., Any]]:
    """torch's own decompositions and ours."""
    return {**torch.export.default_decompositions(), **_OURS}


def _unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    if x.dim() == 0:
        return NotImplemented
    axis = dimension % x.dim()
    count = (x.shape[axis] - size) // step + 1
    starts = torch.arange(count, device=x.device)[:, None] * step
    at = (starts + torch.arange(size, device=x.device)).flatten()
    picked = torch.index_select(x, axis, at).unflatten(axis, (count, size))
    return picked.movedim(axis + 1, -1).contiguous()


def _var_mean(
    x: Tensor,
    dim: Sequence[int] | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> tuple[Tensor, Tensor]:
    axes = list(range(x.dim())) if not dim else list(dim)
    variance = torch.var(
        x, axes, correction=1 if correction is None else correction, keepdim=keepdim
    )
    return variance, torch.mean(x, axes, keepdim=keepdim)


def _fmax(x: Tensor, y: Tensor) -> Tensor:
    x, y = _alike(x, y)
    return torch.where(torch.isnan(x), y, torch.where(torch.isnan(y), x, torch.maximum(x, y)))


def _fmin(x: Tensor, y: Tensor) -> Tensor:
    x, y = _alike(x, y)
    return torch.where(torch.isnan(x), y, torch.where(torch.isnan(y), x, torch.minimum(x, y)))


def _alike(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.result_type(x, y)
    x, y = torch.broadcast_tensors(x.to(dtype), y.to(dtype))
    return x, y


def _signbit(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        return x < 0
    return torch.copysign(torch.ones_like(x), x) < 0


def _ldexp(x: Tensor, exponent: Tensor) -> Tensor:
    return x * torch.exp2(exponent.to(torch.float32))


def _remainder_of_number(number: float, x: Tensor) -> Tensor:
    dtype = torch.result_type(x, number)
    return torch.remainder(torch.full_like(x, number, dtype=dtype), x.to(dtype))


def _count_nonzero(x: Tensor, dim: Sequence[int]) -> Tensor:
    there = x if x.dtype == torch.bool else x != 0
    return there.to(torch.int64).sum(list(dim))


def _cdist(x: Tensor, y: Tensor, p: float, _mode: int | None) -> Tensor:
    difference = x.unsqueeze(-2) - y.unsqueeze(-3)
    return torch.linalg.vector_norm(difference, p, -1)


def _searchsorted(
    boundaries: Tensor,
    x: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Boundaries passed are counted: what is NaN has passed them all, as in torch."""
    if sorter is not None or boundaries.dim() != 1:
        return NotImplemented
    value = x.unsqueeze(-1)
    ahead = boundaries > value if right or side == "right" else boundaries >= value
    return (
        torch.logical_not(ahead)
        .to(torch.int32)
        .sum(-1)
        .to(torch.int32 if out_int32 else torch.int64)
    )


def _bucketize(
    x: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False
) -> Tensor:
    return _searchsorted(boundaries, x, out_int32=out_int32, right=right)


def _adaptive_max_pool2d(x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Each window on its own; indices count in the flattened plane."""
    height, width = x.shape[-2:]
    plane = torch.arange(height * width, device=x.device).reshape(height, width)
    values, indices = [], []
    for r in range(size[0]):
        top, bottom = _window(r, size[0], height)
        for c in range(size[1]):
            left, right = _window(c, size[1], width)
            window = x[..., top:bottom, left:right].flatten(-2)
            values.append(window.amax(-1))
            indices.append(plane[top:bottom, left:right].flatten()[window.argmax(-1)])
    shape = (*x.shape[:-2], *size)
    return torch.stack(values, -1).reshape(shape), torch.stack(indices, -1).reshape(shape)


def _window(i: int, count: int, size: int) -> tuple[int, int]:
    return i * size // count, math.ceil((i + 1) * size / count)


def _topk(
    x: Tensor, k: int, dim: int = -1, largest: bool = True, _sorted: bool = True
) -> tuple[Tensor, Tensor]:
    values, indices = torch.sort(x, dim, largest)
    return values.narrow(dim, 0, k), indices.narrow(dim, 0, k)


def _kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    values, indices = torch.sort(x, dim)
    found = values.narrow(dim, k - 1, 1), indices.narrow(dim, k - 1, 1)
    return found if keepdim else (found[0].squeeze(dim), found[1].squeeze(dim))


def _median_along(x: Tensor, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower of the two in the middle; a NaN where there is one."""
    values, indices = torch.sort(x, dim)
    count = x.shape[dim]
    value, index = (v.narrow(dim, (count - 1) // 2, 1) for v in (values, indices))
    if x.is_floating_point():
        last = values.narrow(dim, count - 1, 1)
        first_nan = torch.isnan(x).to(torch.int32).argmax(dim, keepdim=True)
        index = torch.where(torch.isnan(last), first_nan, index)
        value = torch.where(torch.isnan(last), last, value)
    return (value, index) if keepdim else (value.squeeze(dim), index.squeeze(dim))


def _median(x: Tensor) -> Tensor:
    return _median_along(x.flatten(), 0)[0]


def _masked_put(
    x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False
) -> Tensor:
    """x[mask] = number."""
    mask = indices[0]
    if len(indices) != 1 or mask is None or mask.dtype != torch.bool or values.numel() != 1:
        return NotImplemented
    where = mask.reshape(*mask.shape, *(1,) * (x.dim() - mask.dim()))
    value = values.reshape(()).to(x.dtype)
    return torch.where(where, x + value if accumulate else value, x)


def _stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """With an axis of its own from the start, so that one can see that time is not touched."""
    return torch.cat([x.unsqueeze(dim) for x in tensors], dim)


_OURS: dict[Any, Callable[..., Any]] = {
    aten.stack.default: _stack,
    aten.unfold.default: _unfold,
    aten.var_mean.correction: _var_mean,
    aten.fmax.default: _fmax,
    aten.fmin.default: _fmin,
    aten.signbit.default: _signbit,
    aten.ldexp.Tensor: _ldexp,
    aten.remainder.Scalar_Tensor: _remainder_of_number,
    aten.count_nonzero.dim_IntList: _count_nonzero,
    aten._cdist_forward.default: _cdist,
    aten.searchsorted.Tensor: _searchsorted,
    aten.bucketize.Tensor: _bucketize,
    aten.adaptive_max_pool2d.default: _adaptive_max_pool2d,
    aten.topk.default: _topk,
    aten.kthvalue.default: _kthvalue,
    aten.median.dim: _median_along,
    aten.median.default: _median,
    aten.index_put.default: _masked_put,
}
