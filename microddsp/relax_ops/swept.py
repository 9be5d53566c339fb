"""State-variable filters whose cut-off is a signal, and its quality too."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from microddsp.errors import SignalError
from microddsp.relax_ops.expression import Expr, Step, select, trace, unary
from microddsp.relax_ops.sample_operator import SampleOperator, define
from microddsp.relax_ops.torch_library import register
from microddsp.relax_ops.torch_operator import apply_all

Results = tuple[list[Expr], list[Expr]]


def _held(value: Expr, low: Expr, high: Expr) -> Expr:
    return select(value < low, low, select(value > high, high, value))


def _section(value: Expr, g: Expr, k: Expr, shares: Sequence[Expr], z: Sequence[Expr]) -> Results:
    """As `svf`, of each sample's g and k. The integrators hold the voltages of an analog filter's
    capacitors, so that it stays stable however both move.

    Source: A. Simper, "Solving the continuous SVF equations using trapezoidal integration and
    equivalent currents", Cytomic, 2013; V. Zavalishin, "The art of VA filter design", 2018, 4.
    """
    m0, m1, m2 = shares
    a1 = 1.0 / (g * (g + k) + 1.0)
    a2 = a1 * g
    v3 = value - z[1]
    v1 = v3 * a2 + z[0] * a1
    v2 = v1 * g + z[1]
    y = (value * m0 + v1 * m1) + v2 * m2
    return [y], [v1 * 2.0 - z[0], v2 * 2.0 - z[1]]


def step(count: int) -> Step:
    """g = tan(turn f) of each sample's f, held between low and high."""

    def sweep(x: Sequence[Expr], p: Sequence[Expr], z: Sequence[Expr]) -> Results:
        value, cutoff = x
        turn, low, high, k, *shares = p
        return _section(value, unary("tan", _held(cutoff, low, high) * turn), k, shares, z)

    return trace(sweep, 2, count, 2)


def step_of_quality(count: int) -> Step:
    """As `step`, and k = 1/Q of each sample's Q, held between two more bounds; the band-pass is
    mixed in by m1 k."""

    def sweep(x: Sequence[Expr], p: Sequence[Expr], z: Sequence[Expr]) -> Results:
        value, cutoff, quality = x
        turn, low, high, low_q, high_q, m0, m1, m2 = p
        k = 1.0 / _held(quality, low_q, high_q)
        g = unary("tan", _held(cutoff, low, high) * turn)
        return _section(value, g, k, (m0, m1 * k, m2), z)

    return trace(sweep, 3, count, 2)


OPERATOR = define(SampleOperator("swept", step, 1, lambda count: (2,), inputs=("x", "cutoff")))
OF_QUALITY = define(
    SampleOperator(
        "swept_quality",
        step_of_quality,
        1,
        lambda count: (2,),
        inputs=("x", "cutoff", "quality"),
    )
)
register(OPERATOR)
register(OF_QUALITY)


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
    _check("turn low high k m0 m1 m2", coefficients)
    y, following = apply_all(OPERATOR, [x, cutoff], coefficients, state)
    return y, following


def swept_quality(
    x: Tensor, cutoff: Tensor, quality: Tensor, coefficients: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """As `swept`, with a quality factor that follows a signal too.

    Args:
        x, cutoff, state: See `swept`.
        quality: Q of each sample, like x. Its gradient is zero where it is held.
        coefficients: (8,) as turn, low, high, the bounds of quality (the lower one positive), and
            m0 m1 m2 where the share of the band-pass is m1 / Q; or (channels, 8).

    Returns:
        The filtered signal and the state after its last sample.

    Raises:
        SignalError: Shapes or types that do not fit together.
    """
    _check("turn low high low_q high_q m0 m1 m2", coefficients)
    y, following = apply_all(OF_QUALITY, [x, cutoff, quality], coefficients, state)
    return y, following


def _check(names: str, coefficients: Tensor) -> None:
    if coefficients.dim() < 1 or coefficients.shape[-1] != len(names.split()):
        raise SignalError(
            f"a swept filter has coefficients {names}, got {tuple(coefficients.shape)}",
            where="microddsp.swept",
        )
