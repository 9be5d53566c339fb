"""Pseudo-random noise, the same numbers on every device.

Three congruential generators with products below 2^24, so that float32 computes them exactly;
the height is multiplied last, once, so that the noise itself has the same bits everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from microddsp.errors import SignalError
from microddsp.relax_ops.expression import Expr, Step, select, trace, unary
from microddsp.relax_ops.sample_operator import SampleOperator, define
from microddsp.relax_ops.torch_library import register
from microddsp.relax_ops.torch_operator import apply

FACTORS = (157, 146, 142)
MODULI = (32363, 31727, 31657)
LEVELS = MODULI[0] - 2


def _next(z: Expr, factor: int, modulus: int) -> Expr:
    """z * factor mod modulus. Rounding first says that the state is whole: it has no gradient."""
    value = unary("trunc", z + 0.5) * float(factor)
    return value - unary("trunc", value * (1 / modulus)) * float(modulus)


def step(count: int) -> Step:
    """y = x + height * u, u one of the odd numbers from -LEVELS to LEVELS, all as likely.

    Source: P. L'Ecuyer, "Efficient and portable combined random number generators",
    Communications of the ACM 31(6), 1988: the generator for 16-bit computers, of period 8e12.
    """

    def draw(
        x: Sequence[Expr], p: Sequence[Expr], z: Sequence[Expr]
    ) -> tuple[list[Expr], list[Expr]]:
        one, two, three = (
            _next(value, a, m) for value, a, m in zip(z, FACTORS, MODULI, strict=True)
        )
        count = float(MODULI[0] - 1)
        mixed = one - two
        mixed = select(mixed > 706.0, mixed - count, mixed) + three
        mixed = select(mixed < 1.0, mixed + count, mixed)
        uniform = mixed * 2.0 - (count + 1.0)
        return [x[0] + uniform * p[0]], [one, two, three]

    return trace(draw, 1, count, 3)


OPERATOR = define(SampleOperator("noise", step, 1, lambda count: (3,)))
register(OPERATOR)


def noise(x: Tensor, coefficients: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Add uniform noise.

    Args:
        x: (..., channels, samples), float32 or float64.
        coefficients: (1,) as the height of the noise, its peak / LEVELS, or (channels, 1).
        state: (..., channels, 3), whole numbers from 1 to below each of `MODULI`.

    Returns:
        The noisy signal and the state after its last sample. No gradient goes through the state.

    Raises:
        SignalError: Shapes or types that do not fit together.
    """
    if coefficients.dim() < 1 or coefficients.shape[-1] != 1:
        raise SignalError(
            f"noise has one coefficient, its height, got {tuple(coefficients.shape)}",
            where="microddsp.noise",
        )
    return apply(OPERATOR, x, coefficients, state)
