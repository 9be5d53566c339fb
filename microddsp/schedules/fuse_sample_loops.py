"""Pass: runs of sample-wise operators become one loop over samples each."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence

import numpy as np
import tvm
from tvm import relax
from tvm.ir import IRModule
from tvm.ir.transform import PassContext

from microddsp.relax_ops.choices import Made, asking, choose, made
from microddsp.relax_ops.expression import Expr, binary, is_constant, select, unary
from microddsp.relax_ops.origins import from_units, units_of_call
from microddsp.relax_ops.recurrence import NAME as RECURRENCE
from microddsp.relax_ops.recurrence import operator as recurrence_of
from microddsp.relax_ops.sample_operator import SAMPLE_OPERATORS
from microddsp.relax_ops.scalar_rules import clipped, is_truth, number
from microddsp.relax_ops.swept_delay import NAME as SWEPT_DELAY
from microddsp.schedules.filter_form import USUAL_FORMS, in_form, precise_forms, split_gain
from microddsp.schedules.graph import (
    builder_without_main,
    operands,
    operator_name,
    replace,
    static_shape,
)
from microddsp.schedules.loop_memory import Tensor, constants
from microddsp.schedules.sample_groups import (
    DECIMATE,
    SAMPLE_CALLS,
    SUM,
    Group,
    group,
    joint_outputs,
)
from microddsp.schedules.sample_loop import USUAL, LoopShape, SampleLoop

_UNARY: dict[str, Callable[[Expr], Expr]] = {
    "relax.abs": abs,
    "relax.negative": lambda x: -x,
    "relax.sqrt": lambda x: unary("sqrt", x),
    "relax.exp": lambda x: unary("exp", x),
    "relax.log": lambda x: unary("log", x),
    "relax.sin": lambda x: unary("sin", x),
    "relax.cos": lambda x: unary("cos", x),
    "relax.tanh": lambda x: unary("tanh", x),
    "relax.square": lambda x: x * x,
    # a NaN is neither below zero nor hidden: torch keeps it
    "relax.nn.relu": lambda x: select(x < 0.0, 0.0, x),
}
_BINARY: dict[str, Callable[[Expr, Expr], Expr]] = {
    "relax.add": lambda a, b: a + b,
    "relax.subtract": lambda a, b: a - b,
    "relax.multiply": lambda a, b: a * b,
    "relax.divide": lambda a, b: a / b,
    "relax.maximum": lambda a, b: binary("max", a, b),
    "relax.minimum": lambda a, b: binary("min", a, b),
    "relax.greater": lambda a, b: a > b,
    "relax.greater_equal": lambda a, b: binary("ge", a, b),
    "relax.less": lambda a, b: a < b,
    "relax.less_equal": lambda a, b: binary("le", a, b),
    **dict.fromkeys(
        ("relax.logical_and", "relax.bitwise_and"),
        lambda a, b: binary("and", _truth(a), _truth(b)),
    ),
    **dict.fromkeys(
        ("relax.logical_or", "relax.bitwise_or"),
        lambda a, b: binary("or", _truth(a), _truth(b)),
    ),
}

# Attribute of a graph: pairs (parameter, result) of states that are zero in the beginning.
ZERO_STATES = "microddsp.zero_states"


@tvm.transform.module_pass(opt_level=0, name="FuseSampleLoops")
class FuseSampleLoops:
    """Fuse along time: filters, gains, rectifiers, envelopes and counters share one loop."""

    def __init__(self, loops: LoopShape = USUAL) -> None:
        self.loops = loops

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        return _rewrite(mod, self.loops)


def _truth(x: Expr) -> Expr:
    """What was loaded from memory, or computed, as a condition."""
    return x if is_truth(x) else binary("ne", x, 0.0)


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
        results = _emit_loop(builder, g, names[id(g)], wanted, items, value_of, loops, free)
        for var, value in results.items():
            remap[var] = value
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
    items: dict[relax.Var, tuple[relax.Var, int]],
    value_of: Callable[[relax.Expr], relax.Expr],
    loops: LoopShape,
    free: Container[relax.Var],
) -> dict[relax.Var, relax.Expr]:
    """Build the function of one group and call it; returns what each wanted variable became."""
    kernel = made(lambda: _make_loop(g, name, wanted, items, value_of, loops, free))
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


def _make_loop(
    g: Group,
    name: str,
    wanted: list[relax.Var],
    items: dict[relax.Var, tuple[relax.Var, int]],
    value_of: Callable[[relax.Expr], relax.Expr],
    loops: LoopShape,
    free: Container[relax.Var],
) -> Made:
    """The function of one group, its outputs in the order of the wanted variables. States of the
    `free` filters are nobody else's: their form may be another."""
    loop = SampleLoop(*g.shape)
    signals: dict[tuple[relax.Var, int], Expr] = {}  # (variable, field) inside the loop
    tensors: dict[tuple[relax.Var, int], Tensor] = {}
    args: list[relax.Expr] = []

    def key(var: relax.Var) -> tuple[relax.Var, int]:
        return items.get(var, (var, -1))

    def tensor(expr: relax.Expr) -> int:
        args.append(value_of(expr))
        return loop.tensor(static_shape(expr) or (), str(expr.ty.dtype))

    def signal(expr: relax.Expr, *, interleaved: bool = False) -> Expr:
        if isinstance(expr, tvm.ir.GenericConst) and expr.value.numpy().size == 1:
            return constants(expr.value.numpy())[0]
        if isinstance(expr, relax.Var) and key(expr) in signals:
            return signals[key(expr)]
        value = loop.load(tensor(expr), interleaved=interleaved)
        if isinstance(expr, relax.Var) and not interleaved:
            signals[key(expr)] = value
        return value

    def parameters(expr: relax.Expr, rank: int) -> list[Expr]:
        """Known and the same for all channels: constants; else from a table of the channel's."""
        if not isinstance(expr, tvm.ir.GenericConst):
            shape = static_shape(expr) or ()
            if len(shape) == rank:  # the same for all channels, but not known yet
                shape = (1, *shape)
                args.append(relax.op.reshape(value_of(expr), shape))
                index = loop.tensor(shape, str(expr.ty.dtype))
            else:
                index = tensor(expr)
            return loop.table(index, range(int(np.prod(shape[1:]))))
        values = expr.value.numpy()
        if values.ndim == rank:
            return constants(values)
        rows = values.reshape(values.shape[0], -1)
        own = [i for i in range(rows.shape[1]) if not (rows[:, i] == rows[0, i]).all()]
        leaves = dict(zip(own, loop.table(tensor(expr), own), strict=True)) if own else {}
        return [leaves.get(i, known) for i, known in enumerate(constants(rows[0]))]

    forms, changed = 0, []
    for b in g.bindings:
        call, kind = b.value, operator_name(b.value)
        if kind == "dsp.decode_input":
            raw, scale, offset, interleaved = call.args
            value = signal(raw, interleaved=bool(int(interleaved)))
            value = (value - signal(offset)) * signal(scale)
            signals[b.var, -1] = value
        elif kind == "dsp.event_counter":
            x, thresholds, state, refractory = call.args
            high, low = parameters(thresholds, 1)
            counted, event, following = loop.count(
                signal(x), (high, low), int(refractory), tensor(state)
            )
            tensors[b.var, 0] = counted
            signals[b.var, 1] = event
            tensors[b.var, 2] = following
        elif kind == f"dsp.{SWEPT_DELAY}":
            x, delay, line, place = call.args
            delayed, ring, after = loop.delay(signal(x), signal(delay), tensor(line), tensor(place))
            signals[b.var, 0] = delayed
            tensors[b.var, 1], tensors[b.var, 2] = ring, after
        elif kind in SAMPLE_CALLS:
            given = list(call.args)
            operator = (
                recurrence_of(str(given.pop().value))
                if kind == f"dsp.{RECURRENCE}"
                else SAMPLE_OPERATORS[kind.removeprefix("dsp.")]
            )
            *inputs, coefficients, state = given
            params = parameters(coefficients, operator.parameter_rank)
            step, usual = operator.step(len(params)), USUAL_FORMS.get(kind, "")
            form = usual
            if asking() and b.var in free and all(is_constant(p) for p in params):
                forms += 1
                name = "form" if forms == 1 else f"form {forms}"
                form = choose(name, precise_forms(kind, params), usual)
            if form != usual:
                step, params = in_form(kind, params, form)
            if form == "transposed":
                step = split_gain(step, params)
            if operator.joint:
                source = tensor(inputs[0])
                heard = [loop.load(source, row=i) for i in range(len(operator.inputs))]
            else:
                heard = [signal(x) for x in inputs]
            held = tensor(state)
            results, following = loop.apply(step, heard, params, held)
            if form != usual:
                changed.append(held)
            if joint_outputs(call) > 1:
                tensors[b.var, 0] = loop.store_rows(results)
                tensors[b.var, 1] = following
            else:
                signals.update({(b.var, i): value for i, value in enumerate(results)})
                tensors[b.var, len(results)] = following
        elif kind == DECIMATE:
            x, factor = call.args
            tensors[b.var, -1] = loop.store(signal(x), every=int(factor))
        elif kind == SUM:
            tensors[b.var, -1] = loop.store_sum(signal(call.args[0]))
        elif kind == "relax.broadcast_to":
            signals[b.var, -1] = signal(call.args[0])
        elif kind == "relax.clip":
            x, *bounds = call.args
            known = [None if math.isinf(v) else v for v in map(float, bounds)]
            signals[b.var, -1] = clipped(signal(x), *known)
        elif kind == "relax.astype":
            x = signal(call.args[0])
            signals[b.var, -1] = _truth(x) if str(b.var.ty.dtype) == "bool" else number(x)
        elif kind == "relax.where":
            condition, yes, no = (signal(arg) for arg in call.args)
            signals[b.var, -1] = select(_truth(condition), number(yes), number(no))
        elif len(call.args) == 1:
            signals[b.var, -1] = _UNARY[kind](signal(call.args[0]))
        else:
            signals[b.var, -1] = _BINARY[kind](signal(call.args[0]), signal(call.args[1]))

    outputs = [
        tensors[key(var)] if key(var) in tensors else loop.store(number(signals[key(var)]))
        for var in wanted
    ]
    function = loop.build(name, outputs, loops)
    return Made(function, tuple(args), frozenset(changed))
