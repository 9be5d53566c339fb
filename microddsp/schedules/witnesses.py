"""Which states show that any of them is poisoned: NaN and infinity spread, so few need a look.

A sum or product of something that is not finite is not finite either, whatever the other operand
is: after a sample with a poisoned state, every state computed from it in this way is poisoned too.
A state of which that holds for itself stays so; it is a witness for all that reach it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from microddsp.relax_ops.expression import COMPARISONS, LOGIC, Expr, in_order

_NONE: frozenset[int] = frozenset()
# Not finite if any operand is not: inf - inf and 0 * inf are NaN.
_EVERY = ("add", "sub", "mul", "neg", "abs", "sqrt", "log", "sin", "cos", "tan", "floor")
_FIRST = ("div", "fmod")  # a / inf is 0
_COMMON = ("max", "min")  # either operand may be the result
# Numbers whatever the operands are: they poison nothing.
_FINITE = ("to_float", *COMPARISONS, *LOGIC)


def witnesses(
    states: Sequence[Expr], following: Sequence[Expr], loads: Collection[int]
) -> list[int]:
    """Places among `states` (leaves) whose check finds every poisoned state.

    What a load brings in (`loads` are ids of leaves) shows at once. An infinity that arises inside,
    from finite values, shows at the latest when it has spread to its witness, a few samples later.
    """
    always, ever = _spreading(following)
    count = len(states)
    place = {id(state): i for i, state in enumerate(states)}
    to = [{j for j in range(count) if id(states[i]) in always[j]} for i in range(count)]
    seen_by = [_reaching(i, to) for i in range(count)]
    chosen: list[int] = []
    left = set(range(count))
    lasting = [i for i in range(count) if i in to[i]]
    while left:
        best = max(lasting, key=lambda i: (len(seen_by[i] & left), i), default=None)
        if best is None or not seen_by[best] & left:
            break
        chosen.append(best)
        left -= seen_by[best]
    direct = frozenset().union(*(always[i] for i in chosen)) if chosen else _NONE
    hidden = {j for j in place.values() if (ever[j] & set(loads)) - direct}
    return sorted({*chosen, *left, *hidden})


def _reaching(target: int, to: Sequence[set[int]]) -> set[int]:
    """Every state that reaches `target`, itself included."""
    found = {target}
    grown = True
    while grown:
        more = {i for i, next_ones in enumerate(to) if next_ones & found} - found
        grown = bool(more)
        found |= more
    return found


def _spreading(roots: Sequence[Expr]) -> tuple[list[frozenset[int]], list[frozenset[int]]]:
    """For each root the leaves (by id) that always poison it, and those that may."""
    always: dict[int, frozenset[int]] = {}
    ever: dict[int, frozenset[int]] = {}
    for expr in in_order(roots):
        args = [always[id(arg)] for arg in expr.args]
        below = frozenset().union(*(ever[id(arg)] for arg in expr.args))
        if expr.op == "leaf":
            sure = below = frozenset((id(expr),))
        elif expr.op in _EVERY:
            sure = frozenset().union(*args)
        elif expr.op in _FIRST:
            sure = args[0]
        elif expr.op in _COMMON:
            sure = args[0] & args[1]
        elif expr.op == "select":
            sure = args[1] & args[2]
        else:
            sure = _NONE
        always[id(expr)] = sure
        ever[id(expr)] = _NONE if expr.op in _FINITE else below
    return [always[id(r)] for r in roots], [ever[id(r)] for r in roots]
