"""Signals that drive a block: a parameter as a number for each sample."""

from __future__ import annotations

from torch import Tensor

from microddsp.errors import SignalError


def driving(name: str, value: Tensor, x: Tensor, where: str) -> Tensor:
    """A driving signal in the shape of `x`: it is like x, or one channel for all.

    Raises:
        SignalError: Another type, number of samples or shape.
    """
    if value.dtype != x.dtype or value.shape[-1:] != x.shape[-1:]:
        raise SignalError(
            f"{name} is {tuple(value.shape)} of {value.dtype}, the signal "
            f"{tuple(x.shape)} of {x.dtype}",
            where=where,
        )
    if value.shape == x.shape:
        return value
    try:
        return value.expand(x.shape)
    except RuntimeError:
        raise SignalError(
            f"{name} {tuple(value.shape)} does not fit the signal {tuple(x.shape)}",
            where=where,
            hint="like the signal, or one channel for all",
        ) from None
