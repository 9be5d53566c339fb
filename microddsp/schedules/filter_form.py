"""Cheaper forms of a filter section whose coefficients are known."""

from __future__ import annotations

from collections.abc import Sequence

from microddsp.relax_ops.expression import Expr, Step, constant, is_constant, trace

# Numerators of low-, high- and band-pass designs are b0 times these, exactly.
_PLAIN = (0.0, 1.0, -1.0, 2.0, -2.0)


def split_gain(step: Step, params: Sequence[Expr]) -> Step:
    """An SOS step in which sections with plain numerators scale their input once by b0.

    A Butterworth band-pass has numerators b0 * (1, 0, -1): one multiply instead of two, and none
    where b0 is one. States keep their meaning. Steps with other parameters are returned as is.
    """
    if not all(is_constant(p) for p in params):
        return step
    ratios = [_ratios(params[i : i + 3]) for i in range(0, len(params), 5)]
    if not any(ratios):
        return step

    def cascade(
        x: Sequence[Expr], p: Sequence[Expr], z: Sequence[Expr]
    ) -> tuple[list[Expr], list[Expr]]:
        value = x[0]
        following: list[Expr] = []
        for s, plain in enumerate(ratios):
            b0, b1, b2, a1, a2 = p[5 * s : 5 * s + 5]
            z0, z1 = z[2 * s], z[2 * s + 1]
            if plain:
                value = value * b0
                b0, b1, b2 = constant(1.0), constant(plain[0]), constant(plain[1])
            y = value * b0 + z0
            following += [(z1 + value * b1) - a1 * y, value * b2 - a2 * y]
            value = y
        return [value], following

    return trace(cascade, 1, len(params), len(step.states))


def _ratios(b: Sequence[Expr]) -> tuple[float, float] | None:
    b0, b1, b2 = (p.value for p in b)
    if b0 == 0.0:
        return None
    first, second = b1 / b0, b2 / b0
    return (first, second) if first in _PLAIN and second in _PLAIN else None
