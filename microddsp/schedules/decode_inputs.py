"""Pass: the pipeline's inputs become what the ADC or I2S DMA delivers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import relax
from tvm.ir import IRModule

from microddsp.errors import CompileError
from microddsp.relax_ops.registry import call
from microddsp.schedules.graph import builder_without_main, replace, static_shape
from microddsp.signature import INPUT_DTYPES, Input


def decode_inputs(mod: IRModule, formats: Sequence[Input]) -> IRModule:
    """Give main raw inputs and convert them first; the conversion fuses into the first loop.

    Raises:
        CompileError: An input that is no (channels, samples) signal is to be converted.
    """
    main = mod["main"]
    raw = list(main.params)
    for i, fmt in enumerate(formats):
        if fmt == Input():
            continue
        shape = static_shape(main.params[i])
        if shape is None or len(shape) != 2 or str(main.params[i].ty.dtype) != "float32":
            raise CompileError(
                f"input {main.params[i].name!r} has shape {shape}; only a float signal "
                "(channels, samples) can be converted from raw samples"
            )
        own = shape[::-1] if fmt.interleaved else shape
        raw[i] = relax.Var(main.params[i].name, relax.TensorType(own, INPUT_DTYPES[fmt.dtype]))
    builder = builder_without_main(mod)
    with builder.function("main", raw, attrs=dict(main.attrs or {})):
        with builder.dataflow():
            known: dict[relax.Var, relax.Expr] = {}
            for fmt, old, new in zip(formats, main.params, raw, strict=False):
                if not new.same_as(old):
                    decoded = call(
                        "dsp.decode_input",
                        new,
                        relax.const(np.float32(fmt.factor)),
                        relax.const(np.float32(fmt.offset)),
                        int(fmt.interleaved),
                    )
                    known[old] = builder.emit(decoded)
            for block in main.body.blocks:
                for b in block.bindings:
                    known[b.var] = builder.emit(replace(b.value, known))
            result = builder.emit_output(replace(main.body.body, known))
        builder.emit_func_output(result)
    return builder.get()
