"""Where a recording that is played stands: started by a trigger, once or round and round."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from microddsp.errors import SignalError
from microddsp.relax_ops.expression import Expr, Step, select, trace
from microddsp.relax_ops.sample_operator import SampleOperator, define
from microddsp.relax_ops.torch_library import register
from microddsp.relax_ops.torch_operator import apply_all


def step(count: int) -> Step:
    """y = z, or 0 at the sample where x rises above 0.5; z' = y + speed, and keep z' + rest
    beyond the end. Index and share are counted apart: their sum would lose the share's digits."""

    def advance(
        x: Sequence[Expr], p: Sequence[Expr], z: Sequence[Expr]
    ) -> tuple[list[Expr], list[Expr]]:
        whole, part, end, keep, rest = p
        starts = select(z[2] > 0.5, 0.0, select(x[0] > 0.5, 1.0, 0.0))
        index = select(starts > 0.5, 0.0, z[0])
        share = select(starts > 0.5, 0.0, z[1])
        after = share + part
        within = after < 1.0
        following = (index + whole) + select(within, 0.0, 1.0)
        after = select(within, after, after - 1.0)
        inside = following < end
        return [index, share], [
            select(inside, following, following * keep + rest),
            select(inside, after, after * keep),
            x[0],
        ]

    return trace(advance, 1, count, 3)


OPERATOR = define(SampleOperator("player", step, 1, lambda count: (3,), outputs=2))
register(OPERATOR)


def player(x: Tensor, coefficients: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The place in a recording at each sample.

    Args:
        x: (..., channels, samples), float32 or float64; it starts where it rises above 0.5.
        coefficients: (5,) as whole and part of the speed (places per sample; part from 0 to below
            1), end (half a place before the length: indices are whole), keep, rest, or
            (channels, 5). Keep 1 and rest -length go round (whole at most length), keep 0 and rest
            length stop at the end.
        state: (..., channels, 3): index and share of the next sample, the last input.

    Returns:
        The index, a whole number from 0 to below length or rest, the share of the way to the next
        from 0 to below 1, and the state after the last sample. The gradient of a place is that of
        its share.

    Raises:
        SignalError: Shapes or types that do not fit together.
    """
    if coefficients.dim() < 1 or coefficients.shape[-1] != 5:
        raise SignalError(
            f"a player has coefficients whole, part, end, keep, rest, got "
            f"{tuple(coefficients.shape)}",
            where="microddsp.player",
        )
    index, share, following = apply_all(OPERATOR, [x], coefficients, state)
    return index, share, following
