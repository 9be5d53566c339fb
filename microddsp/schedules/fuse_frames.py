"""Pass: a spectrum reads its frame where the samples lie, in the past and in the newest block."""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import relax
from tvm.ir import IRModule
from tvm.ir.transform import PassContext

from microddsp.relax_ops.delay_line import following
from microddsp.relax_ops.origins import from_units, units_of_call
from microddsp.relax_ops.spectrum import emit as emit_spectrum
from microddsp.schedules.graph import (
    builder_without_main,
    operands,
    operator_name,
    static_shape,
)
from microddsp.schedules.graph import replace as substitute


@dataclass(frozen=True, slots=True)
class _Cut:
    """One frame a block, which only spectra read; the state is written behind the last of them."""

    call: relax.Call
    following: relax.Var
    spectra: tuple[relax.Var, ...]


@tvm.transform.module_pass(opt_level=0, name="FuseFrames")
class FuseFrames:
    """`frames` that gives one frame a block to spectra alone is no kernel of its own.

    The frame is never put together: that saves its memory and two copies. The past is still moved
    on by a block, two and a half instructions a sample: 800 to 1300 beside the 14 000 of a
    transform of 512. A ring would be as long as the frame, and a mask at each of the 512 reads
    would cost what it saves. With several frames a block past and block are joined once for all.
    """

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        bindings = [b for block in mod["main"].body.blocks for b in block.bindings]
        cuts = {b.var: cut for b in bindings if (cut := _cut_of(b, bindings, mod["main"]))}
        return _rewrite(mod, bindings, cuts) if cuts else mod


def _cut_of(
    b: relax.VarBinding, bindings: list[relax.VarBinding], main: relax.Function
) -> _Cut | None:
    if operator_name(b.value) != "dsp.frames":
        return None
    x, length, hop, _ = b.value.args
    samples = (static_shape(x) or (0,))[-1]
    users = [u for u in bindings if b.var in operands(u.value)]
    items = {int(u.value.index): u.var for u in users if isinstance(u.value, relax.TupleGetItem)}
    if samples != int(hop) or int(length) == int(hop) or len(users) != 2 or set(items) != {0, 1}:
        return None
    spectra = [u for u in bindings if items[0] in operands(u.value)]
    others = [u for u in spectra if operator_name(u.value) != "dsp.spectrum"]
    returned = operands(main.body.body)
    if others or not spectra or items[0] in returned:
        return None
    last = bindings.index(spectra[-1])
    if any(items[1] in operands(u.value) for u in bindings[:last]):
        return None
    return _Cut(b.value, items[1], tuple(u.var for u in spectra))


def _rewrite(
    mod: IRModule, bindings: list[relax.VarBinding], cuts: dict[relax.Var, _Cut]
) -> IRModule:
    main = mod["main"]
    builder = builder_without_main(mod)
    cut_of = {var: cut for cut in cuts.values() for var in cut.spectra}
    gone = set(cuts)
    known: dict[relax.Var, relax.Expr] = {}
    with builder.function("main", main.params, attrs=dict(main.attrs or {})):
        with builder.dataflow():
            for b in bindings:
                if b.var in cut_of:
                    cut = cut_of[b.var]
                    x, _, _, state = (substitute(arg, known) for arg in cut.call.args)
                    made = emit_spectrum(builder, b.value, (state, x))
                    if isinstance(made, relax.Call):
                        units = (*units_of_call(cut.call), *units_of_call(b.value))
                        made = from_units(made, units)
                    known[b.var] = builder.emit(made)
                    if b.var.same_as(cut.spectra[-1]):
                        kept = from_units(following(builder, state, x), units_of_call(cut.call))
                        known[cut.following] = builder.emit(kept)
                elif b.var not in gone and not gone.intersection(operands(b.value)):
                    value = substitute(b.value, known)
                    known[b.var] = value if isinstance(value, relax.Var) else builder.emit(value)
            outputs = builder.emit_output(substitute(main.body.body, known))
        builder.emit_func_output(outputs)
    return relax.transform.DeadCodeElimination()(builder.get())
