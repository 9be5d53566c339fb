"""Peaks: samples above those before, those after and a threshold, one in a refractory time."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from microddsp.errors import SignalError
from microddsp.relax_ops.expression import Expr, Step, select, trace
from microddsp.relax_ops.sample_operator import SampleOperator, define
from microddsp.relax_ops.torch_library import register
from microddsp.relax_ops.torch_operator import apply_all


def step(count: int) -> Step:
    """A sample above `before`, the largest one before it, and above threshold + mean, is a
    candidate; one of age `lookahead` is a peak unless the machine waits. The mean takes in the
    sample at last.

    A sample above `before` takes the place of an earlier candidate, which is in the window of
    `before` as long as it waits: so none is left that a later sample is above of.
    """

    def pick(
        x: Sequence[Expr], p: Sequence[Expr], z: Sequence[Expr]
    ) -> tuple[list[Expr], list[Expr]]:
        value, highest = x
        threshold, share, lookahead, refractory = p
        before, age, wait, mean = z
        above = value > mean + threshold
        none = lookahead + 1.0
        older = select(age + 1.0 < none, age + 1.0, none)
        age = select(value > before, select(above, 0.0, none), older)
        ripe = select(age > lookahead - 0.5, select(age < lookahead + 0.5, 1.0, 0.0), 0.0)
        fires = select(wait > 0.5, 0.0, ripe)
        wait = select(fires > 0.5, refractory, select(wait > 0.5, wait - 1.0, 0.0))
        return [fires], [highest, age, wait, mean + (value - mean) * share]

    return trace(pick, 2, count, 4)


OPERATOR = define(SampleOperator("peaks", step, 1, lambda count: (4,), inputs=("x", "highest")))
register(OPERATOR)


def peaks(x: Tensor, highest: Tensor, coefficients: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """1 where a peak is recognised, `lookahead` samples after it, else 0.

    Args:
        x: (..., channels, samples), float32 or float64.
        highest: The largest value in the window that ends at each sample of x; like x.
        coefficients: (4,) as threshold, share of a sample in the mean (0: the threshold is
            absolute), lookahead (at most the samples in the window of `highest`), refractory (no
            peak is recognised in so many samples after one), or (channels, 4).
        state: (..., channels, 4): highest before the first sample, age of the candidate
            (lookahead + 1: none), samples to wait, mean.

    Returns:
        The signal of events and the state after the last sample. Events have no gradient.

    Raises:
        SignalError: Shapes or types that do not fit together.
    """
    if coefficients.dim() < 1 or coefficients.shape[-1] != 4:
        raise SignalError(
            f"peaks have coefficients threshold, share, lookahead, refractory, got "
            f"{tuple(coefficients.shape)}",
            where="microddsp.peaks",
        )
    events, following = apply_all(OPERATOR, [x, highest], coefficients, state)
    return events, following
