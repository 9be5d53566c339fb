"""What a graph gives, and which of it may be computed straight into its place."""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax

from microddsp.micro.aot.kernel import pairs_of
from microddsp.schedules.graph import operands, operator_name
from microddsp.schedules.pipeline import VIEWS

# A variable, and which field of it where it is a tuple.
Field = tuple[relax.Var, int]


def results_of(main: relax.Function, bindings: Sequence[relax.VarBinding]) -> list[relax.Expr]:
    """The outputs, then the states, as expressions of the graph."""
    body = main.body.body
    for b in bindings:
        if b.var.same_as(body):
            body = b.value if isinstance(b.value, relax.Tuple) else body
            break
    return list(body.fields) if isinstance(body, relax.Tuple) else [body]


def early_results(
    mod: tvm.IRModule,
    bindings: Sequence[relax.VarBinding],
    results: Sequence[relax.Expr],
    states: Sequence[relax.Var],
) -> dict[Field, int]:
    """What becomes a result without a copy, and that result's number.

    A state, which is written over, is written early only if nothing reads its old value later, or
    if the very call that writes it may work in place.
    """
    source, made, last_read = _sources(bindings)
    count = len(results) - len(states)
    for i, item in enumerate(results):
        if isinstance(item, relax.Var):
            base = source.get(item, (item, 0))[0]
            own = i >= count and base.same_as(states[i - count])
            if base not in made and not own:
                last_read[base] = len(bindings)  # an old state that is also a result
    found: dict[Field, int] = {}
    for i, item in enumerate(results):
        if not isinstance(item, relax.Var):
            continue
        key = source.get(item, (item, 0))
        if key in found or key[0] not in made:
            continue
        if i >= count:
            state, at = states[i - count], made[key[0]]
            read = last_read.get(state, -1)
            if read > at or (read == at and not _inplace(mod, bindings[at].value, key[1], state)):
                continue
        found[key] = i
    return found


def is_view(expr: relax.Expr) -> bool:
    """Whether it is its argument's memory under another shape."""
    return operator_name(expr) in VIEWS


def _sources(
    bindings: Sequence[relax.VarBinding],
) -> tuple[dict[relax.Var, Field], dict[relax.Var, int], dict[relax.Var, int]]:
    """What a variable is another name of; by variable, where it is bound and where last read."""
    source: dict[relax.Var, Field] = {}
    made: dict[relax.Var, int] = {}
    last_read: dict[relax.Var, int] = {}
    for at, b in enumerate(bindings):
        made[b.var] = at
        value = b.value
        if isinstance(value, relax.TupleGetItem) and isinstance(value.tuple_value, relax.Var):
            source[b.var] = (value.tuple_value, int(value.index))
            continue
        inner = value.args[0] if is_view(value) else value
        if isinstance(inner, relax.Var):
            source[b.var] = source.get(inner, (inner, 0))
            continue
        for var in operands(value):
            base = source.get(var, (var, 0))[0]
            last_read[base] = at
    return source, made, last_read


def _inplace(mod: tvm.IRModule, call: relax.Expr, output: int, state: relax.Var) -> bool:
    """The call reads `state` only through the input that it may overwrite with `output`."""
    args = list(call.args[1].fields)
    for out, into in pairs_of(mod[call.args[0]], "inplace"):
        if out == len(args) + output and args[into].same_as(state):
            return sum(arg.same_as(state) for arg in args) == 1
    return False
