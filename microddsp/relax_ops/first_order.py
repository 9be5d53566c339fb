"""First-order section, transposed direct form II: one-pole filters and DC blockers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from microddsp.errors import SignalError
from microddsp.relax_ops.expression import Expr, Step, trace
from microddsp.relax_ops.sample_operator import SampleOperator, define
from microddsp.relax_ops.torch_library import register
from microddsp.relax_ops.torch_operator import apply


def step(count: int) -> Step:
    """y = b0 x + z; z' = b1 x - a1 y."""

    def section(
        x: Sequence[Expr], p: Sequence[Expr], z: Sequence[Expr]
    ) -> tuple[list[Expr], list[Expr]]:
        b0, b1, a1 = p
        y = x[0] * b0 + z[0]
        return [y], [x[0] * b1 - a1 * y]

    return trace(section, 1, count, 1)


OPERATOR = define(SampleOperator("first_order", step, 1, lambda count: (1,)))
register(OPERATOR)


def first_order(x: Tensor, coefficients: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Filter along the last axis: y[n] = b0 x[n] + b1 x[n-1] - a1 y[n-1].

    Args:
        x: (..., channels, samples), float32 or float64.
        coefficients: (3,) as b0 b1 a1, or (channels, 3).
        state: (..., channels, 1).

    Returns:
        The filtered signal and the state after its last sample.

    Raises:
        SignalError: Shapes or types that do not fit together.
    """
    if coefficients.dim() < 1 or coefficients.shape[-1] != 3:
        raise SignalError(
            f"a first-order section has coefficients b0 b1 a1, got {tuple(coefficients.shape)}",
            where="microddsp.first_order",
        )
    return apply(OPERATOR, x, coefficients, state)
