"""Pass: a convolution takes along the bias, the rectifier, a mean over time, the next padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import tvm
from tvm import relax
from tvm.ir import IRModule
from tvm.ir.transform import PassContext

from microddsp.relax_ops.causal_conv1d import emit as emit_causal
from microddsp.relax_ops.choices import Made, call_of
from microddsp.relax_ops.convolution_kernel import Convolution, convolution_kernel
from microddsp.relax_ops.convolution_pair import convolution_pair, pairs
from microddsp.relax_ops.delay_line import emit_padding
from microddsp.relax_ops.origins import Units, from_units, units_of_call
from microddsp.schedules.graph import (
    builder_without_main,
    operands,
    operator_name,
    static_shape,
)
from microddsp.schedules.graph import replace as substitute

# The binding that reads a variable, if it is the only one.
_OnlyUser = Callable[[relax.Var], relax.VarBinding | None]
_Values = dict[relax.Var, relax.Expr]
_VIEWS = ("relax.squeeze", "relax.expand_dims", "relax.reshape")


@dataclass(slots=True)
class _Chain:
    """A convolution over one frame, and what of its users it takes along."""

    call: relax.Call
    spec: Convolution
    padding: tuple[int, int]
    bias: np.ndarray
    last: relax.Var  # the value that the kernel gives, in another shape perhaps
    taken: set[relax.Var] = field(default_factory=set)
    source: _Chain | None = None  # gives the input with this convolution's padding around it
    paired: bool = False  # with its source: one kernel for both
    result: relax.Var | None = None


@tvm.transform.module_pass(opt_level=0, name="FuseConvolutions")
class FuseConvolutions:
    """`conv1d` over one frame becomes one kernel with all that follows it element by element."""

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        main = mod["main"]
        bindings = [b for block in main.body.blocks for b in block.bindings]
        users: dict[relax.Var, list[relax.VarBinding]] = {}
        for b in bindings:
            for var in operands(b.value):
                users.setdefault(var, []).append(b)
        returned = set(operands(main.body.body))

        def only_user(var: relax.Var) -> relax.VarBinding | None:
            found = users.get(var, [])
            return found[0] if len(found) == 1 and var not in returned else None

        values = {b.var: b.value for b in bindings}
        chains = {}
        for b in bindings:
            chain = _chain_of(b, only_user, values)
            if chain is not None:
                chains[b.var] = chain
        causal = _rectified(bindings, only_user)
        if not chains and not causal:
            return mod
        for chain in chains.values():
            _join(chain, chains, values, only_user)
        for chain in chains.values():
            before = chain.source
            if before is not None and not before.paired:
                chain.paired = pairs(before.spec, chain.spec)
        return _rewrite(mod, bindings, chains, causal)


def _chain_of(b: relax.VarBinding, only_user: _OnlyUser, values: _Values) -> _Chain | None:
    call = b.value
    if operator_name(call) != "relax.nn.conv1d":
        return None
    x, weight = (static_shape(arg) for arg in call.args)
    attrs = call.attrs
    plain = str(attrs.data_layout) == "NCW" and str(attrs.kernel_layout) == "OIW"
    floats = str(call.args[0].ty.dtype) == str(call.args[1].ty.dtype) == "float32"
    if x is None or weight is None or x[0] != 1 or not plain or not floats:
        return None
    before, after = (int(p) for p in attrs.padding)
    rows, per_group, taps = weight
    spec = Convolution(
        rows,
        per_group,
        taps,
        x[2] + before + after,
        int(attrs.strides[0]),
        int(attrs.dilation[0]),
        int(attrs.groups),
    )
    chain = _Chain(call, spec, (before, after), np.zeros(rows, "float32"), b.var)
    _take_along(chain, only_user, values)
    return chain


def _take_along(chain: _Chain, only_user: _OnlyUser, values: _Values) -> None:
    rows, biased = chain.spec.rows, False
    while True:
        user = only_user(chain.last)
        if user is None or not isinstance(user.value, relax.Call):
            return
        kind, call, spec = operator_name(user.value), user.value, chain.spec
        if kind in _VIEWS and not spec.mean:
            kept = [size for size in static_shape(user.var) or () if size != 1]
            if kept != [size for size in (rows, spec.outputs) if size != 1]:
                return
        elif kind == "relax.add" and not (biased or spec.relu or spec.mean):
            bias = _bias(call, chain.last, rows, values)
            if bias is None:
                return
            chain.bias, biased = bias, True
        elif kind == "relax.nn.relu" and not (spec.relu or spec.mean):
            chain.spec = replace(spec, relu=True)
        elif kind == "relax.mean" and not spec.mean and _over_time(call, rows, spec.outputs):
            chain.spec = replace(spec, mean=True)
        else:
            return
        chain.last = user.var
        chain.taken.add(user.var)


def _bias(call: relax.Call, value: relax.Var, rows: int, values: _Values) -> np.ndarray | None:
    """The constant that is added, if it is one number a row of (1, rows, time)."""
    other = next((a for a in call.args if not a.same_as(value)), None)
    shape = static_shape(other) if other is not None else None
    if shape not in ((1, rows, 1), (rows, 1)) or len(static_shape(value) or ()) != 3:
        return None
    while isinstance(other, relax.Var) and operator_name(values.get(other)) in _VIEWS:
        other = values[other].args[0]
    if not isinstance(other, tvm.ir.GenericConst):
        return None
    return np.ascontiguousarray(other.value.numpy().reshape(rows))


def _over_time(call: relax.Call, rows: int, outputs: int) -> bool:
    shape = static_shape(call.args[0]) or ()
    axes = [int(a) % len(shape) for a in call.attrs.axis or ()]
    return len(shape) >= 2 and axes == [len(shape) - 1] and shape[-2:] == (rows, outputs)


def _rectified(
    bindings: list[relax.VarBinding], only_user: _OnlyUser
) -> dict[relax.Var, tuple[relax.Var, relax.Var]]:
    """Causal convolutions whose signal only a rectifier reads: by their variable, the signal's and
    the rectifier's."""
    found = {}
    for b in bindings:
        if not isinstance(b.value, relax.TupleGetItem) or int(b.value.index) != 0:
            continue
        user = only_user(b.var)
        if user is not None and operator_name(user.value) == "relax.nn.relu":
            found[b.value.tuple_value] = (b.var, user.var)
    calls = {b.var for b in bindings if operator_name(b.value) == "dsp.causal_conv1d"}
    return {var: pair for var, pair in found.items() if var in calls}


def _join(
    chain: _Chain,
    chains: dict[relax.Var, _Chain],
    values: _Values,
    only_user: _OnlyUser,
) -> None:
    """Let the convolution before this one write its result with this one's padding around it."""
    var = chain.call.args[0]
    between: set[relax.Var] = set()
    last = {c.last: c for c in chains.values()}
    while only_user(var) is not None:
        before = last.get(var)
        if before is not None and not before.spec.mean:
            lead, trail = chain.padding
            before.spec = replace(before.spec, lead=lead, trail=trail)
            chain.source = before
            chain.taken |= between
            return
        value = values.get(var)
        if value is None or operator_name(value) not in _VIEWS:
            return
        between.add(var)
        var = value.args[0]


def _rewrite(
    mod: IRModule,
    bindings: list[relax.VarBinding],
    chains: dict[relax.Var, _Chain],
    causal: dict[relax.Var, tuple[relax.Var, relax.Var]],
) -> IRModule:
    main = mod["main"]
    builder = builder_without_main(mod)
    taken = {var for chain in chains.values() for var in chain.taken}
    taken |= {var for pair in causal.values() for var in pair}
    within = {id(chain.source) for chain in chains.values() if chain.paired}
    units = {b.var: units_of_call(b.value) for b in bindings}
    known: dict[relax.Var, relax.Expr] = {}
    with builder.function("main", main.params, attrs=dict(main.attrs or {})):
        with builder.dataflow():
            for b in bindings:
                if b.var in chains:
                    chain = chains[b.var]
                    if id(chain) in within:
                        continue
                    known[chain.last] = _emit(builder, chain, known, units)
                elif b.var in causal:
                    together = from_units(b.value, (*units[b.var], *units[causal[b.var][1]]))
                    both = emit_causal(builder, substitute(together, known), relu=True)
                    known[b.var] = builder.emit(both)
                    known[causal[b.var][1]] = both.fields[0]
                elif b.var not in taken:
                    value = substitute(b.value, known)
                    known[b.var] = value if isinstance(value, relax.Var) else builder.emit(value)
            outputs = builder.emit_output(substitute(main.body.body, known))
        builder.emit_func_output(outputs)
    return relax.transform.DeadCodeElimination()(builder.get())


def _emit(
    builder: relax.BlockBuilder,
    chain: _Chain,
    known: dict[relax.Var, relax.Expr],
    units: dict[relax.Var, Units],
) -> relax.Expr:
    spec = chain.spec
    parts = [chain.source, chain] if chain.paired and chain.source else [chain]
    args = [_input(builder, parts[0], known)]
    for part in parts:
        args += [substitute(part.call.args[1], known), relax.const(part.bias)]
    if len(parts) == 2:
        first = parts[0].spec
        if first.relu and isinstance(args[3], tvm.ir.GenericConst):
            first = replace(first, twice=True)
            args[3] = relax.const(args[3].value.numpy() / 2)

        def make() -> Made:
            return Made(convolution_pair(first, spec, "convolutions"), tuple(args))
    else:

        def make() -> Made:
            return Made(convolution_kernel(spec, "convolution"), tuple(args))

    out = relax.TensorType(spec.shape, "float32")
    own = [i for part in parts for var in part.taken for i in units[var]]
    own += [i for part in parts for i in units_of_call(part.call)]
    y = builder.emit(call_of(builder, make, "convolution", out, own))
    chain.result = y
    wanted = static_shape(chain.last)
    return (
        y
        if wanted == spec.shape or spec.lead or spec.trail
        else builder.emit(relax.op.reshape(y, wanted))
    )


def _input(
    builder: relax.BlockBuilder, chain: _Chain, known: dict[relax.Var, relax.Expr]
) -> relax.Expr:
    """What the convolution reads, with its padding."""
    if chain.source is not None:
        return chain.source.result
    x = substitute(chain.call.args[0], known)
    x = builder.emit(relax.op.reshape(x, (static_shape(x) or ())[1:]))
    return emit_padding(builder, x, *chain.padding)
