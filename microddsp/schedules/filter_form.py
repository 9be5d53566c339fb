"""Other forms of filter sections whose coefficients are known."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch

from microddsp.relax_ops.expression import Expr, Step, constant, is_constant, trace
from microddsp.relax_ops.reference import run
from microddsp.relax_ops.sos import step as transposed_step
from microddsp.relax_ops.svf import as_svf
from microddsp.relax_ops.svf import step as svf_step

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


_LOG = logging.getLogger(__name__)
FORMS = ("transposed", "direct", "svf")
USUAL_FORMS = {"dsp.sos": "transposed", "dsp.svf": "svf"}
# What `dsp` promises of a filter: relative to its largest output, or twice the error of the usual
# form where that is larger.
TOLERATED = 1e-5
_TRIED_SAMPLES = 2048


def precise_forms(kind: str, params: Sequence[Expr]) -> list[str]:
    """The forms that a cascade of known coefficients, "dsp.sos" or "dsp.svf", can have: the usual
    one first, then those whose error in float32 stays within the bound."""
    return list(_precise(kind, tuple(p.value for p in params)))


@lru_cache(maxsize=64)
def _precise(kind: str, values: tuple[float, ...]) -> tuple[str, ...]:
    from scipy.signal import sosfilt  # half a second, which most compilations do not need

    usual, sections = USUAL_FORMS[kind], _sections(kind, values)
    x = np.random.default_rng(0).uniform(0.0, 1.0, _TRIED_SAMPLES)
    exact = sosfilt(_with_a0(sections), x)
    bound = max(TOLERATED, 2.0 * _error(usual, np.array(values), x, exact))
    others = [form for form in FORMS if form != usual]
    errors = [_error(form, _coefficients(sections, form), x, exact) for form in others]
    for form, error in zip(others, errors, strict=True):
        _LOG.debug("the %s form of a filter is off by %.2g, the bound is %.2g", form, error, bound)
    return (usual, *(f for f, error in zip(others, errors, strict=True) if error <= bound))


def in_form(kind: str, params: Sequence[Expr], form: str) -> tuple[Step, list[Expr]]:
    """The step of such a cascade in another form, and its coefficients there. Its states are others
    then, which are zero together."""
    wanted = _coefficients(_sections(kind, tuple(p.value for p in params)), form)
    values = [constant(float(v)) for v in wanted.astype("float32").ravel()]
    return _STEPS[form](len(values)), values


def _sections(kind: str, values: Sequence[float]) -> np.ndarray:
    """b0 b1 b2 a1 a2 in float64."""
    given = np.array(values)
    return from_svf(given.reshape(-1, 6)) if kind == "dsp.svf" else given.reshape(-1, 5)


def _coefficients(sections: np.ndarray, form: str) -> np.ndarray:
    """Of one form, from b0 b1 b2 a1 a2 in float64."""
    if form != "svf":
        return sections
    return as_svf(torch.from_numpy(sections)).numpy()


def from_svf(rows: np.ndarray) -> np.ndarray:
    """a1 a2 a3 m0 m1 m2 as b0 b1 b2 a1 a2: the way back of `as_svf`."""
    a1, a2, _, m0, m1, m2 = rows.T
    g = a2 / a1
    k = (1 / a1 - 1) / g - g
    high = 4 / (1 + g * (g + k))
    low = g * g * high
    odd, outer, even = (m1 + k * m0) * high * g / 2, m0 * high, (m0 + m2) * low
    both = (even + outer) / 2
    b = [(both + odd) / 2, (even - outer) / 2, (both - odd) / 2]
    return np.stack([*b, (low - high) / 2, 1 - k * g * high / 2], 1)


def _with_a0(sections: np.ndarray) -> np.ndarray:
    return np.insert(sections, 3, 1.0, axis=1)


def _error(form: str, rows: np.ndarray, x: np.ndarray, exact: np.ndarray) -> float:
    """The largest one of a form in float32, relative to the largest output."""
    step = _STEPS[form](rows.size)
    signal, coefficients = (torch.from_numpy(v.astype("float32")) for v in (x, rows.ravel()))
    made, _ = run(step, [signal], coefficients, torch.zeros(len(step.states)))
    return float(np.abs(made.numpy() - exact).max() / np.abs(exact).max())


def _direct(count: int) -> Step:
    """Direct form II: w = x - a1 z0 - a2 z1; y = b0 w + b1 z0 + b2 z1; z0' = w; z1' = z0."""

    def cascade(
        x: Sequence[Expr], p: Sequence[Expr], z: Sequence[Expr]
    ) -> tuple[list[Expr], list[Expr]]:
        value = x[0]
        following: list[Expr] = []
        for s in range(count // 5):
            b0, b1, b2, a1, a2 = p[5 * s : 5 * s + 5]
            z0, z1 = z[2 * s], z[2 * s + 1]
            held = (value - a2 * z1) - a1 * z0
            value = (b0 * held + b2 * z1) + b1 * z0
            following += [held, z0]
        return [value], following

    return trace(cascade, 1, count, 2 * (count // 5))


_STEPS: dict[str, Callable[[int], Step]] = {
    "transposed": transposed_step,
    "direct": _direct,
    "svf": svf_step,
}
