"""From which units of the pipeline every call of a lowered module comes.

Up to the legalisation of operators the spans of calls tell it. TVM's own passes drop spans: what
they did is found again by comparing the module before and after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import tvm
from tvm import relax

from microddsp.relax_ops.origins import Units, units_of_call
from microddsp.schedules.graph import operands

ByVariable = dict[relax.Var, Units]


def from_spans(mod: tvm.IRModule) -> ByVariable:
    """The units of every variable. What has no span belongs to its first user that has one, or
    to what it is made of."""
    bindings = bindings_of(mod)
    found: ByVariable = {b.var: units_of_call(b.value) for b in bindings}
    for b in reversed(bindings):
        for var in operands(b.value):
            if var in found and found[b.var]:
                found[var] = found[var] or found[b.var]
    for b in bindings:
        if not found[b.var]:
            found[b.var] = _joined(found.get(var, ()) for var in operands(b.value))
    return found


def after_legalisation(mod: tvm.IRModule, before: Mapping[relax.Var, Units]) -> ByVariable:
    """An operator that became several calls keeps its variable for the last of them."""
    found: ByVariable = {}
    waiting: list[relax.Var] = []
    for b in bindings_of(mod):
        waiting.append(b.var)
        if b.var in before:
            found.update(dict.fromkeys(waiting, before[b.var]))
            waiting = []
    return found


def after_fusion(
    mod: tvm.IRModule, before: tvm.IRModule, units: Mapping[relax.Var, Units]
) -> list[tuple[str, Units]]:
    """Names and units of the calls in order, after calls were put into functions together.

    Both modules compute the same values: each is numbered by what computes it from which others,
    and the numbers tell which calls a function holds.
    """
    numbers = _Numbers()
    for var in before["main"].params:
        numbers.of_variable[var] = numbers.named(("parameter", var.name))
    made: dict[int, Units] = {}
    for b in bindings_of(before):
        number = numbers.of(b.value)
        numbers.of_variable[b.var] = number
        made[number] = _joined([made.get(number, ()), units.get(b.var, ())])
    inner = _Numbers(numbers.known)
    for var in mod["main"].params:
        inner.of_variable[var] = inner.named(("parameter", var.name))
    calls = []
    for b in bindings_of(mod):
        name = _callee(b.value)
        function = mod[name] if name in _names(mod) else None
        if isinstance(function, relax.Function):
            results = []
            for param, arg in zip(function.params, b.value.args, strict=True):
                inner.of_variable[param] = inner.of(arg)
            for bound in (x for block in function.body.blocks for x in block.bindings):
                number = inner.of(bound.value)
                inner.of_variable[bound.var] = number
                results.append(made.get(number, ()))
            inner.of_variable[b.var] = inner.of(function.body.body)
            calls.append((name, _joined(results)))
            continue
        number = inner.of(b.value)
        inner.of_variable[b.var] = number
        if name:
            calls.append((name, made.get(number, ())))
    return calls


def of_calls(mod: tvm.IRModule, calls: Sequence[tuple[str, Units]]) -> list[Units]:
    """The units of each `call_tir` of the lowered module. Between the two, calls that nobody
    needs went; nothing was reordered. Where that does not hold nothing is said."""
    wanted = [n for n in (_callee(b.value) for b in bindings_of(mod)) if n]
    left = list(calls)
    found: list[Units] = []
    for name in wanted:
        while left and left[0][0] != name:
            left.pop(0)
        found.append(left.pop(0)[1] if left else ())
    return found


def bindings_of(mod: tvm.IRModule) -> list[relax.VarBinding]:
    return [b for block in mod["main"].body.blocks for b in block.bindings]


def _joined(groups: Iterable[Units]) -> Units:
    return tuple(sorted({unit for group in groups for unit in group}))


def _names(mod: tvm.IRModule) -> set[str]:
    return {var.name_hint for var in mod.get_global_vars()}


def _callee(value: relax.Expr) -> str:
    """The function that a binding calls, through `call_tir` or itself; "" for anything else."""
    if not isinstance(value, relax.Call):
        return ""
    if isinstance(value.op, tvm.ir.GlobalVar):
        return str(value.op.name_hint)
    if value.op == tvm.ir.Op.get("relax.call_tir"):
        return str(value.args[0].name_hint)
    return ""


class _Numbers:
    """Equal numbers for equal values: the same function of the same arguments."""

    def __init__(self, known: dict[object, int] | None = None) -> None:
        self.known: dict[object, int] = {} if known is None else known
        self.of_variable: dict[relax.Var, int] = {}

    def named(self, key: object) -> int:
        return self.known.setdefault(key, len(self.known))

    def of(self, expr: relax.Expr) -> int:
        if isinstance(expr, relax.Var):
            return self.of_variable.get(expr, -1)
        if isinstance(expr, relax.Tuple):
            return self.named(("tuple", *(self.of(item) for item in expr.fields)))
        if isinstance(expr, relax.TupleGetItem):
            return self.named(("item", self.of(expr.tuple_value), int(expr.index)))
        if isinstance(expr, tvm.ir.GenericConst):
            value = expr.value.numpy()
            return self.named(("constant", value.shape, str(value.dtype), hash(value.tobytes())))
        if isinstance(expr, relax.Call):
            name = _callee(expr)
            given = expr.args[1:] if name else expr.args
            called = name or str(expr.op)
            return self.named((called, *(self.of(arg) for arg in given), str(expr.ty)))
        return self.named(("text", str(expr)))
