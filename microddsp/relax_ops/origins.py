"""Which units of the pipeline a Relax call comes from, written into its span.

A span is what TVM keeps about the origin of an expression: it changes neither the program nor its
text. A call without one is a step on the way to the next that has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tvm
    from tvm import relax

Units = tuple[int, ...]


def from_units(call: relax.Call, units: Iterable[int]) -> relax.Call:
    """The same call, as one that computes these units."""
    import tvm
    from tvm import relax

    text = ",".join(map(str, sorted(set(units))))
    span = tvm.ir.Span(tvm.ir.SourceName(text), 1, 1, 1, 1)
    return relax.Call(call.op, call.args, call.attrs, call.ty_args, span)


def units_of_call(expr: relax.Expr) -> Units:
    """The units in a call's span; empty for what has none."""
    span = getattr(expr, "span", None)
    text = str(span.source_name.name) if span is not None else ""
    words = text.split(",")
    return tuple(map(int, words)) if all(word.isdigit() for word in words) else ()


def with_origins(mod: tvm.IRModule, units: Sequence[int | None]) -> tvm.IRModule:
    """The module with the unit of each binding of `main` in its call."""
    import tvm
    from tvm import relax

    main = mod["main"]
    known: list[int | None] = list(units)
    blocks = []
    for block in main.body.blocks:
        bindings = []
        for b in block.bindings:
            unit, value = known.pop(0), b.value
            if unit is not None and isinstance(value, relax.Call):
                span = from_units(value, [unit]).span
                value = relax.Call(value.op, value.args, value.attrs, value.ty_args, span)
            bindings.append(relax.VarBinding(b.var, value))
        blocks.append(type(block)(bindings))
    body = relax.SeqExpr(blocks, main.body.body)
    function = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    made = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
    made.update_func(made.get_global_var("main"), function)
    return relax.transform.Normalize()(made)
