"""Pass: a convolution of one tap, from or to one channel, as what sample loops understand.

From one channel it is a product each, to one channel a weighted sum of channels: both become part
of a loop over samples, and no kernel of their own reads and writes the signals again.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.ir import IRModule
from tvm.ir.transform import PassContext

from microddsp.schedules.graph import (
    builder_without_main,
    operator_name,
    replace,
    static_shape,
)


@tvm.transform.module_pass(opt_level=0, name="SplitPointwise")
class SplitPointwise:
    """`dsp.causal_conv1d` with one tap becomes products and a sum where channels are few."""

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        main = mod["main"]
        bindings = [b for block in main.body.blocks for b in block.bindings]
        if not any(_weights(b.value) is not None for b in bindings):
            return mod
        builder = builder_without_main(mod)
        known: dict[relax.Var, relax.Expr] = {}
        with builder.function("main", main.params, attrs=dict(main.attrs or {})):
            with builder.dataflow():
                for b in bindings:
                    value = replace(b.value, known)
                    weights = _weights(b.value)
                    if weights is not None:
                        known[b.var] = _products(builder, value, weights)
                        continue
                    if isinstance(value, relax.TupleGetItem):
                        whole = value.tuple_value
                        if isinstance(whole, relax.Tuple):
                            value = whole.fields[int(value.index)]
                    known[b.var] = value if isinstance(value, relax.Var) else builder.emit(value)
                outputs = builder.emit_output(replace(main.body.body, known))
            builder.emit_func_output(outputs)
        return relax.transform.DeadCodeElimination()(builder.get())


def _weights(value: relax.Expr) -> np.ndarray | None:
    """(outputs, inputs) of a convolution that this pass takes."""
    if operator_name(value) != "dsp.causal_conv1d":
        return None
    _, weight, bias, _, stride, _, groups = value.args
    if not all(isinstance(x, tvm.ir.GenericConst) for x in (weight, bias)):
        return None
    matrix = weight.value.numpy()
    outputs, inputs, taps = matrix.shape
    plain = taps == int(stride) == int(groups) == 1
    return matrix[..., 0] if plain and 1 in (outputs, inputs) else None


def _products(builder: relax.BlockBuilder, call: relax.Call, weights: np.ndarray) -> relax.Expr:
    """The signal and, as it was, the state, which is empty."""
    x, _, bias, state = call.args[:4]
    column = weights.reshape(-1, 1)
    samples = (static_shape(x) or ())[-1]
    if weights.shape[1] == 1 and len(column) > 1:
        x = builder.emit(relax.op.broadcast_to(x, (len(column), samples)))
    y = x if (column == 1).all() else builder.emit(relax.op.multiply(x, relax.const(column)))
    if weights.shape[1] > 1:
        y = builder.emit(relax.op.sum(y, axis=[-2], keepdims=True))
    offset = bias.value.numpy().reshape(-1, 1)
    if offset.any():
        y = builder.emit(relax.op.add(y, relax.const(offset)))
    return relax.Tuple([y, state])
