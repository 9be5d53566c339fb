"""Envelope follower with separate attack and release."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from microddsp.errors import SignalError
from microddsp.relax_ops.expression import Expr, Step, select, trace
from microddsp.relax_ops.sample_operator import SampleOperator, define
from microddsp.relax_ops.torch_library import register
from microddsp.relax_ops.torch_operator import apply


def step(count: int) -> Step:
    """d = x - e; e' = e + (attack if d > 0 else release) d; y = e'."""

    def follow(
        x: Sequence[Expr], p: Sequence[Expr], z: Sequence[Expr]
    ) -> tuple[list[Expr], list[Expr]]:
        attack, release = p
        difference = x[0] - z[0]
        following = z[0] + select(difference > 0.0, attack, release) * difference
        return [following], [following]

    return trace(follow, 1, count, 1)


OPERATOR = define(SampleOperator("envelope", step, 1, lambda count: (1,)))
register(OPERATOR)


def envelope(x: Tensor, coefficients: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Follow a rectified signal: fast up by `attack`, slowly down by `release`.

    Source: U. Zoelzer (ed.), "DAFX", 2nd ed., 4.2.1, peak measurement.

    Args:
        x: (..., channels, samples), float32 or float64, usually rectified before.
        coefficients: (2,) as attack, release in (0, 1], or (channels, 2).
        state: (..., channels, 1), the envelope before the first sample.

    Returns:
        The envelope and its state after the last sample.

    Raises:
        SignalError: Shapes or types that do not fit together.
    """
    if coefficients.dim() < 1 or coefficients.shape[-1] != 2:
        raise SignalError(
            f"an envelope has coefficients attack, release, got {tuple(coefficients.shape)}",
            where="microddsp.envelope",
        )
    return apply(OPERATOR, x, coefficients, state)
