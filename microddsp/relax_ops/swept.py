"""State-variable filter whose cut-off is a signal."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from microddsp.errors import SignalError
from microddsp.relax_ops.expression import Expr, Step, select, trace, unary
from microddsp.relax_ops.sample_operator import SampleOperator, define
from microddsp.relax_ops.torch_library import register
from microddsp.relax_ops.torch_operator import apply_all


def step(count: int) -> Step:
    """As `svf`, with g = tan(turn f) of each sample's f, held between low and high. The integrators
    hold the voltages of an analog filter's capacitors, so that it stays stable however f moves.

    Source: A. Simper, "Solving the continuous SVF equations using trapezoidal integration and
    equivalent currents", Cytomic, 2013; V. Zavalishin, "The art of VA filter design", 2018, 4.
    """

    def sweep(
        x: Sequence[Expr], p: Sequence[Expr], z: Sequence[Expr]
    ) -> tuple[list[Expr], list[Expr]]:
        value, cutoff = x
        turn, low, high, k, m0, m1, m2 = p
        held = select(cutoff < low, low, select(cutoff > high, high, cutoff))
        g = unary("tan", held * turn)
        a1 = 1.0 / (g * (g + k) + 1.0)
        a2 = a1 * g
        v3 = value - z[1]
        v1 = v3 * a2 + z[0] * a1
        v2 = v1 * g + z[1]
        y = (value * m0 + v1 * m1) + v2 * m2
        return [y], [v1 * 2.0 - z[0], v2 * 2.0 - z[1]]

    return trace(sweep, 2, count, 2)


OPERATOR = define(SampleOperator("swept", step, 1, lambda count: (2,), inputs=("x", "cutoff")))
register(OPERATOR)


def swept(x: Tensor, cutoff: Tensor, coefficients: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Filter along the last axis with a cut-off that follows a signal.

    Args:
        x: (..., channels, samples), float32 or float64.
        cutoff: Like x. Its gradient is zero where it is held.
        coefficients: (7,) as turn (pi / sample rate in units of cutoff), low and high (what cutoff
            is held between, turn * high below pi / 2), damping k = 1/Q, and m0 m1 m2, which mix
            input, band-pass and low-pass; or (channels, 7).
        state: (..., channels, 2).

    Returns:
        The filtered signal and the state after its last sample.

    Raises:
        SignalError: Shapes or types that do not fit together.
    """
    if coefficients.dim() < 1 or coefficients.shape[-1] != 7:
        raise SignalError(
            f"a swept filter has coefficients turn low high k m0 m1 m2, got "
            f"{tuple(coefficients.shape)}",
            where="microddsp.swept",
        )
    y, following = apply_all(OPERATOR, [x, cutoff], coefficients, state)
    return y, following
