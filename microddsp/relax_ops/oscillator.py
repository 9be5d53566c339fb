"""Sine oscillator: a phase that is counted on, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from microddsp.errors import SignalError
from microddsp.relax_ops.expression import Expr, Step, select, trace, unary
from microddsp.relax_ops.sample_operator import SampleOperator, define
from microddsp.relax_ops.torch_library import register
from microddsp.relax_ops.torch_operator import apply

# Counts in a cycle. The sum of two phases stays a whole number that float32 holds exactly.
CYCLE = 2**23


def step(count: int) -> Step:
    """y = sin(2 pi (z0 / CYCLE + z1 / CYCLE^2 + z2 + phase)): z0 counts on by `high` and z1 by
    `low`, whose overflow goes into z0; z2 adds up x / rate, and is kept in [-0.5, 0.5).

    A phase would keep every rounding error for ever. Whole numbers have none, on any device.
    """

    def turn(
        x: Sequence[Expr], p: Sequence[Expr], z: Sequence[Expr]
    ) -> tuple[list[Expr], list[Expr]]:
        high, low, phase, rate = p
        fine = z[1] + low
        over = fine < CYCLE
        coarse = (z[0] + high) + select(over, 0.0, 1.0)
        moved = z[2] + x[0] / rate
        moved = select(moved < 0.5, moved, moved - 1.0)
        moved = select(moved < -0.5, moved + 1.0, moved)
        turned = z[0] * (1 / CYCLE) + (z[1] * CYCLE**-2 + (z[2] + phase))
        return [unary("sin", turned * (2 * math.pi))], [
            select(coarse < CYCLE, coarse, coarse - CYCLE),
            select(over, fine, fine - CYCLE),
            moved,
        ]

    return trace(turn, 1, count, 3)


OPERATOR = define(SampleOperator("oscillator", step, 1, lambda count: (3,)))
register(OPERATOR)


def oscillator(x: Tensor, coefficients: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """A sine whose frequency the input moves.

    Args:
        x: (..., channels, samples), float32 or float64: what is added to the frequency, in units
            of the rate; its size below one rate.
        coefficients: (4,) as high, low (whole numbers: a sample is (high + low / CYCLE) / CYCLE of
            a cycle), phase (cycles), rate; or (channels, 4). The gradient to the frequency is the
            one to `high`.
        state: (..., channels, 3), whole numbers from 0 to below CYCLE twice, and the cycles that
            the input has added.

    Returns:
        The sine and the state after its last sample.

    Raises:
        SignalError: Shapes or types that do not fit together.
    """
    if coefficients.dim() < 1 or coefficients.shape[-1] != 4:
        raise SignalError(
            f"an oscillator has coefficients high, low, phase, rate, got "
            f"{tuple(coefficients.shape)}",
            where="microddsp.oscillator",
        )
    return apply(OPERATOR, x, coefficients, state)
