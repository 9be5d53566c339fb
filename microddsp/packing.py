"""From kernels to a package: its sources, its signature, and what an archive tells of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import tvm

from microddsp.building import Built, member_name
from microddsp.micro.aot.code import object_of
from microddsp.micro.aot.kernel import Kernel, Parameter
from microddsp.micro.aot.lives import steps
from microddsp.micro.aot.program import Program
from microddsp.micro.aot.source import render
from microddsp.micro.aot.states import StateMember
from microddsp.micro.package.model import CompiledModel
from microddsp.outline import INPUT, KernelCall, Outline, StateField
from microddsp.signature import INPUT_DTYPES, Input, InputSpec, Signature, TensorSpec, Tunable

_LOG = logging.getLogger(__name__)


def package_of(built: Built) -> CompiledModel:
    """The kernels as sources, or sources and an object.

    Raises:
        CompileError: LLVM does not take a kernel.
        BoardError: The target's compiler is missing, and a kernel wants it.
    """
    program = built.program
    signature = _signature(built)
    apart = object_of(program.kernels, built.codes, built.target, built.name)
    objects = {} if apart is None else {f"{built.name}_kernels.o": apart}
    for file, content in objects.items():
        _LOG.info("object code of %s bytes in %s", len(content), file)
    constants = [value for _, value in program.constants]
    constants += [value for d in built.designs for _, value in d.program.constants]
    constants += [m.initial for m in built.members if m.initial.any()]
    return CompiledModel(
        name=built.name,
        target=built.target,
        signature=signature,
        sources=render(
            program,
            signature,
            built.members,
            fpu=built.target.fpu,
            codes=built.codes,
            memory=built.layout,
            setters=built.setters,
            designs=built.designs,
        ),
        objects=objects,
        tir=built.lowered.script(),
        relax=built.graph.script(),
        buffers=tuple(
            (b.name, b.nbytes, program.plan.offsets[b.name], b.first, b.last)
            for b in program.buffers
        ),
        outline=_outline(built),
        kernels=tuple(_kernel_row(kernel) for kernel in program.kernels),
        constant_bytes=sum(value.nbytes for value in constants),
        parameters=_saved(program),
    )


def _signature(built: Built) -> Signature:
    captured, program = built.captured, built.program
    pairs = zip(captured.inputs, built.formats, strict=True)
    signature = Signature(
        name=built.name,
        inputs=tuple(_raw(spec, fmt) for spec, fmt in pairs),
        outputs=captured.outputs,
        structure=captured.structure,
        block=int(captured.inputs[0].shape[-1]) if captured.inputs[0].shape else 1,
        state_bytes=_state_layout(built.members, bool(program.plan.nbytes))[1],
        workspace_bytes=program.plan.nbytes,
        workspace_align=built.layout.workspace_align,
        sample_rate_hz=captured.sample_rate_hz,
        settle_samples=captured.settle_samples,
        io_in_arena=built.io_in_arena,
        push=built.push,
        tunables=tuple(
            Tunable(s.name, s.path, s.value.shape, tuple(map(float, s.value.ravel())))
            for s in built.setters
        ),
    )
    if not built.push:
        return signature
    return replace(signature, state_bytes=_with_buffers(signature))


def _with_buffers(signature: Signature) -> int:
    """sizeof the state struct with what `push` keeps."""
    buffers = sum(-(-spec.nbytes // 4) * 4 for spec in signature.inputs)
    return -(-signature.state_bytes // 4) * 4 + 4 + buffers


def _raw(spec: TensorSpec, fmt: Input) -> InputSpec:
    if fmt == Input():
        return InputSpec(spec.name, spec.shape, spec.dtype)
    return InputSpec(
        spec.name,
        spec.shape[::-1] if fmt.interleaved else spec.shape,
        INPUT_DTYPES[fmt.dtype],
        scale=fmt.factor,
        offset=fmt.offset,
        unit=fmt.unit,
        interleaved=fmt.interleaved,
    )


def _kernel_row(kernel: Kernel) -> tuple[str, int, int]:
    def nbytes(parameters: Sequence[Parameter]) -> int:
        return sum(p.elements * np.dtype(p.dtype).itemsize for p in parameters)

    return kernel.name, nbytes(kernel.scratch), nbytes(kernel.parameters)


def _saved(program: Program) -> bytes:
    """The constants as TVM saves parameters, by their names in the C."""
    tensors = {place.name: tvm.runtime.tensor(value) for place, value in program.constants}
    return bytes(tvm.runtime.save_param_dict(tensors)) if tensors else b""


def _outline(built: Built) -> Outline:
    captured, program = built.captured, built.program
    inputs = {i for i, unit in enumerate(captured.units) if unit.kind == INPUT}
    left = [tuple(i for i in numbers if i not in inputs) for numbers in built.units]
    calls = tuple(
        KernelCall(
            call.kernel.name if call.kernel else "",
            first,
            last,
            left.pop(0) if call.kernel else (),
            tuple(place.key for place in call.arguments),
        )
        for call, (first, last) in zip(program.calls, steps(program.calls), strict=True)
    )
    fields, _ = _state_layout(built.members, bool(program.plan.nbytes))
    names = {state.name: member_name(state) for state in captured.states}
    owned = [replace(u, states=tuple(names[s] for s in u.states)) for u in captured.units]
    return Outline(tuple(owned), captured.made_by, calls, fields)


def _state_layout(
    members: Sequence[StateMember], workspace: bool
) -> tuple[tuple[StateField, ...], int]:
    """The members of the state struct on a 32-bit target, and its size."""
    at, widest, fields = 4 + (4 if workspace else 0), 4, []
    for member in members:
        width = member.initial.dtype.itemsize
        widest = max(widest, width)
        at = -(-at // width) * width
        fields.append(StateField(member.name, member.elements * width, at))
        at += member.elements * width
    return tuple(fields), -(-at // widest) * widest
