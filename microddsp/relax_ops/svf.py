"""State-variable filter sections: exact where direct forms lose precision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from microddsp.errors import SignalError
from microddsp.relax_ops.expression import Expr, Step, trace
from microddsp.relax_ops.sample_operator import SampleOperator, define
from microddsp.relax_ops.torch_library import register
from microddsp.relax_ops.torch_operator import apply


def step(count: int) -> Step:
    """Two trapezoidal integrators: v3 = x - z1; v1 = a1 z0 + a2 v3; v2 = z1 + a2 z0 + a3 v3;
    z0' = 2 v1 - z0; z1' = 2 v2 - z1; y = m0 x + m1 v1 + m2 v2.

    Source: A. Simper, "Solving the continuous SVF equations using trapezoidal integration and
    equivalent currents", Cytomic, 2013.
    """

    def cascade(
        x: Sequence[Expr], p: Sequence[Expr], z: Sequence[Expr]
    ) -> tuple[list[Expr], list[Expr]]:
        value = x[0]
        following: list[Expr] = []
        for s in range(count // 6):
            a1, a2, a3, m0, m1, m2 = p[6 * s : 6 * s + 6]
            z0, z1 = z[2 * s], z[2 * s + 1]
            v3 = value - z1
            v1 = v3 * a2 + z0 * a1
            v2 = (v3 * a3 + z0 * a2) + z1
            following += [v1 * 2.0 - z0, v2 * 2.0 - z1]
            value = (value * m0 + v1 * m1) + v2 * m2
        return [value], following

    return trace(cascade, 1, count, 2 * (count // 6))


OPERATOR = define(SampleOperator("svf", step, 2, lambda count: (count // 6, 2)))
register(OPERATOR)


def svf(x: Tensor, coefficients: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Filter along the last axis with a cascade of state-variable sections.

    With g = tan(pi f/fs) and damping k = 1/Q: a1 = 1/(1 + g (g + k)), a2 = g a1, a3 = g a2;
    m0 m1 m2 mix input, band-pass and low-pass.

    Args:
        x: (..., channels, samples), float32 or float64.
        coefficients: (sections, 6) as a1 a2 a3 m0 m1 m2, or (channels, sections, 6).
        state: (..., channels, sections, 2).

    Returns:
        The filtered signal and the state after its last sample.

    Raises:
        SignalError: Shapes or types that do not fit together.
    """
    if coefficients.dim() < 2 or coefficients.shape[-1] != 6 or coefficients.shape[-2] == 0:
        raise SignalError(
            f"sections have six coefficients a1 a2 a3 m0 m1 m2, got {tuple(coefficients.shape)}",
            where="microddsp.svf",
        )
    return apply(OPERATOR, x, coefficients, state)


def as_svf(sections: Tensor) -> Tensor:
    """b0 b1 b2 a1 a2 as a1 a2 a3 m0 m1 m2: the same system in state-variable form.

    z^-1 = (1 - s)/(1 + s) gives the analog section, whose coefficients are positive if stable.
    """
    b0, b1, b2, a1, a2 = sections.unbind(-1)
    high, middle, low = 1 - a1 + a2, 2 * (1 - a2), 1 + a1 + a2
    g = torch.sqrt(low / high)
    k = middle / (high * g)
    m0 = (b0 - b1 + b2) / high
    m1 = 2 * (b0 - b2) / (high * g) - k * m0
    m2 = (b0 + b1 + b2) / low - m0
    return svf_row(g, k, m0, m1, m2)


def svf_row(g: Tensor, k: Tensor, m0: Tensor, m1: Tensor, m2: Tensor) -> Tensor:
    """Coefficients of state-variable sections from warped frequency, damping 1/Q and mix."""
    a1 = 1 / (1 + g * (g + k))
    return torch.stack([a1, g * a1, g * g * a1, m0, m1, m2], -1)
