"""Cascade of second-order sections, transposed direct form II."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from microddsp.errors import SignalError
from microddsp.relax_ops.expression import Expr, Step, trace
from microddsp.relax_ops.sample_operator import SampleOperator, define
from microddsp.relax_ops.torch_library import register
from microddsp.relax_ops.torch_operator import apply


def step(count: int) -> Step:
    """y = b0 x + z0; z0' = b1 x - a1 y + z1; z1' = b2 x - a2 y, section after section."""

    def cascade(
        x: Sequence[Expr], p: Sequence[Expr], z: Sequence[Expr]
    ) -> tuple[list[Expr], list[Expr]]:
        value = x[0]
        following: list[Expr] = []
        for s in range(count // 5):
            b0, b1, b2, a1, a2 = p[5 * s : 5 * s + 5]
            y = value * b0 + z[2 * s]
            following += [(z[2 * s + 1] + value * b1) - a1 * y, value * b2 - a2 * y]
            value = y
        return [value], following

    return trace(cascade, 1, count, 2 * (count // 5))


OPERATOR = define(SampleOperator("sos", step, 2, lambda count: (count // 5, 2)))
register(OPERATOR)


def sos(x: Tensor, coefficients: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Filter along the last axis with a cascade of second-order sections.

    Signs and order follow `scipy.signal.sosfilt` with a0 = 1 left out: b0 b1 b2 a1 a2.

    Args:
        x: (..., channels, samples), float32 or float64.
        coefficients: (sections, 5), or (channels, sections, 5).
        state: (..., channels, sections, 2), as scipy's `zi`.

    Returns:
        The filtered signal and the state after its last sample.

    Raises:
        SignalError: Shapes or types that do not fit together.
    """
    if coefficients.dim() < 2 or coefficients.shape[-1] != 5 or coefficients.shape[-2] == 0:
        raise SignalError(
            f"sections have five coefficients b0 b1 b2 a1 a2, got {tuple(coefficients.shape)}",
            where="microddsp.sos",
        )
    return apply(OPERATOR, x, coefficients, state)
