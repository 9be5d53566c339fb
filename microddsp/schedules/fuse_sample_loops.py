"""Pass: runs of sample-wise operators become one loop over samples each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tvm
from tvm import relax
from tvm.ir import IRModule
from tvm.ir.transform import PassContext

from microddsp.relax_ops.choices import Made, made
from microddsp.relax_ops.origins import from_units, units_of_call
from microddsp.schedules.filter_form import USUAL_FORMS
from microddsp.schedules.graph import builder_without_main, operands, operator_name, replace
from microddsp.schedules.group_loop import make_loop
from microddsp.schedules.sample_groups import Group, group
from microddsp.schedules.sample_loop import USUAL, LoopShape

# Attribute of a graph: pairs (parameter, result) of states that are zero in the beginning.
ZERO_STATES = "microddsp.zero_states"


@tvm.transform.module_pass(opt_level=0, name="FuseSampleLoops")
class FuseSampleLoops:
    """Fuse along time: filters, gains, rectifiers, envelopes and counters share one loop."""

    def __init__(self, loops: LoopShape = USUAL) -> None:
        self.loops = loops

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        return _rewrite(mod, self.loops)


def _rewrite(mod: IRModule, loops: LoopShape) -> IRModule:
    main = mod["main"]
    bindings = [b for block in main.body.blocks for b in block.bindings]
    groups = group(bindings)
    if not groups:
        return mod
    owner = {b.var: g for g in groups for b in g.bindings}
    uses: dict[relax.Var, set[int]] = {}
    for b in bindings:
        key = id(owner[b.var]) if b.var in owner else id(b)
        for var in operands(b.value):
            uses.setdefault(var, set()).add(key)
    for var in operands(main.body.body):
        uses.setdefault(var, set()).add(0)

    builder = builder_without_main(mod)
    remap: dict[relax.Var, relax.Expr] = {}
    pending = {id(g): len(g.bindings) for g in groups}
    names = {id(g): f"sample_loop{i}" for i, g in enumerate(groups)}
    waiting: list[relax.VarBinding] = []

    def value_of(expr: relax.Expr) -> relax.Expr:
        return replace(expr, remap)

    def ready(expr: relax.Expr) -> bool:
        return all(var in remap or var in params or var in done for var in operands(expr))

    params = set(main.params)
    done: set[relax.Var] = set()
    items = {
        b.var: (b.value.tuple_value, int(b.value.index))
        for b in bindings
        if isinstance(b.value, relax.TupleGetItem)
    }

    free = _free_filters(main, bindings, items)

    def emit_plain(b: relax.VarBinding) -> None:
        value = value_of(b.value)
        remap[b.var] = value if isinstance(value, relax.Var) else builder.emit(value)
        done.add(b.var)

    def emit_group(g: Group) -> None:
        own = {b.var for b in g.bindings}
        inner = own | {var for var, (source, _) in items.items() if source in own}
        wanted = [
            var
            for var in sorted(inner, key=order.__getitem__)
            if uses.get(var, set()) - {id(g)} and not isinstance(var.ty, relax.TupleType)
        ]
        name = names[id(g)]
        loop = made(lambda: make_loop(g, name, wanted, items, value_of, loops, free))
        remap.update(_emit_loop(builder, g, name, wanted, loop))
        done.update(inner)

    order = {b.var: i for i, b in enumerate(bindings)}
    with builder.function("main", main.params, attrs=dict(main.attrs or {})):
        with builder.dataflow():
            for b in bindings:
                g = owner.get(b.var)
                if g is not None:
                    pending[id(g)] -= 1
                waiting.append(b)
                progress = True
                while progress:
                    progress = False
                    for w in list(waiting):
                        if w.var in done:
                            waiting.remove(w)
                            progress = True
                            continue
                        wg = owner.get(w.var)
                        if wg is not None:
                            if pending[id(wg)] == 0 and _inputs_ready(wg, items, ready):
                                emit_group(wg)
                                progress = True
                        elif ready(w.value):
                            emit_plain(w)
                            waiting.remove(w)
                            progress = True
            outputs = builder.emit_output(value_of(main.body.body))
        builder.emit_func_output(outputs)
    return relax.transform.DeadCodeElimination()(builder.get())


def _free_filters(
    main: relax.Function,
    bindings: Sequence[relax.VarBinding],
    items: dict[relax.Var, tuple[relax.Var, int]],
) -> set[relax.Var]:
    """Filters that alone read and write a state which is zero in the beginning."""
    pairs = (main.attrs or {}).get(ZERO_STATES) or ()
    if not pairs:
        return set()
    values = {b.var: b.value for b in bindings}
    result = main.body.body
    while isinstance(result, relax.Var) and result in values:
        result = values[result]
    fields = list(result.fields) if isinstance(result, relax.Tuple) else []
    readers: dict[relax.Var, list[relax.VarBinding]] = {}
    for b in bindings:
        if not b.value.same_as(result):
            for var in operands(b.value):
                readers.setdefault(var, []).append(b)
    found = set()
    for i, o in pairs if fields else ():
        before, after = main.params[int(i)], fields[int(o)]
        only = readers.get(before, [])
        own = items.get(after) if isinstance(after, relax.Var) else None
        mine = len(only) == 1 and operator_name(only[0].value) in USUAL_FORMS
        if mine and own == (only[0].var, 1) and not readers.get(after):
            if sum(f.same_as(after) for f in fields) == 1:
                found.add(only[0].var)
    return found


def _inputs_ready(
    g: Group,
    items: dict[relax.Var, tuple[relax.Var, int]],
    ready: Callable[[relax.Expr], bool],
) -> bool:
    own = {b.var for b in g.bindings}
    for b in g.bindings:
        for var in operands(b.value):
            inner = var in own or (var in items and items[var][0] in own)
            if not inner and not ready(var):
                return False
    return True


def _emit_loop(
    builder: relax.BlockBuilder,
    g: Group,
    name: str,
    wanted: list[relax.Var],
    kernel: Made,
) -> dict[relax.Var, relax.Expr]:
    """Call the function of a group; returns what each wanted variable became."""
    results = kernel.function.params[len(kernel.arguments) :]
    types = [relax.TensorType([int(n) for n in p.shape], str(p.dtype)) for p in results]
    added = builder.add_func(kernel.function, name)
    call = relax.call_tir(added, list(kernel.arguments), out_ty=types)
    units = [i for b in g.bindings for i in units_of_call(b.value)]
    called = builder.emit(from_units(call, units))

    def result(i: int, var: relax.Var) -> relax.Expr:
        one = called if len(results) == 1 else builder.emit(relax.TupleGetItem(called, i))
        # a truth leaves the loop as a number
        return builder.emit(relax.op.astype(one, "bool")) if str(var.ty.dtype) == "bool" else one

    return {var: result(i, var) for i, var in enumerate(wanted)}
