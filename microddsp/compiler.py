"""From a PyTorch pipeline to C: the four stages in order."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tvm

from microddsp.budget import check_budget, read_limits
from microddsp.errors import CompileError, MicroddspError, ParameterError, nearest
from microddsp.frontend import capture
from microddsp.micro.aot.code import check_emit, codes_of, fits, object_of
from microddsp.micro.aot.memory_options import MemoryOptions
from microddsp.micro.aot.program import Program, build_program
from microddsp.micro.aot.source import StateMember, render
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.package.names import is_model_name
from microddsp.micro.targets import Target, find_target
from microddsp.relax_ops.choices import Session, choosing
from microddsp.schedules.decode_inputs import decode_inputs
from microddsp.schedules.fuse_sample_loops import ZERO_STATES
from microddsp.schedules.graph import operator_name
from microddsp.schedules.pass_options import PassOptions, pass_context
from microddsp.schedules.pipeline import pipeline
from microddsp.signature import INPUT_DTYPES, Input, InputSpec, Signature, TensorSpec

if TYPE_CHECKING:
    import torch

    from microddsp.frontend.capture import Capture
    from microddsp.tuning.apply import Applied

_LOG = logging.getLogger(__name__)
MAX_UNROLL = 64
# Operators whose states are past samples.
DELAY_LINES = (
    "dsp.fir",
    "dsp.causal_conv1d",
    "dsp.frames",
    "dsp.delay",
    "dsp.swept_delay",
    "dsp.tapped_delay",
    "dsp.resample",
)


def compile(
    module: torch.nn.Module,
    example_inputs: torch.Tensor | Sequence[torch.Tensor],
    *,
    target: str | Target = "cortex-m4f",
    name: str = "model",
    input: Input | Mapping[str, Input] | None = None,
    taps: Sequence[str] = (),
    budget: Mapping[str, int | str] | None = None,
    unroll: int | None = None,
    io_in_arena: bool = False,
    narrow: bool = False,
    emit: str = "c",
    memory: MemoryOptions | None = None,
    passes: PassOptions | None = None,
    tuning_records: str | Path | None = None,
) -> CompiledModel:
    """Compile a whole pipeline, raw samples to answer, into streaming C.

    Args:
        module: The trained pipeline; it is not changed.
        example_inputs: One block per input, shape (channels, block).
        target: A name from `microddsp targets`.
        name: Prefix of every C symbol; an identifier.
        input: What the device delivers, for all inputs or by input name.
        taps: Module paths of inner blocks whose outputs become outputs too.
        budget: Limits in bytes for "flash", "ram" (state + arena) and "stack"; for "load" a text
            like "50%@64MHz": modelled cycles of a Cortex-M4F against the sample rate.
        unroll: Samples per pass of a sample loop; None chooses, usually eight. Fewer make the
            program smaller and a little slower.
        io_in_arena: Inputs and outputs lie inside the workspace, where they share memory with
            what is computed between them.
        narrow: Store tables of constants as 8- or 16-bit integers where that loses nothing: where
            all numbers are whole multiples of a power of two, as `training.round_weights` makes
            them. Flash for a little time; the numbers that are computed stay the same.
        emit: "c", or "obj": the kernels are an object file for the target, made by LLVM, and only
            what stands around them is C. With "any" tuning records say of each kernel which it is.
        memory: Alignments, and sections for state, constants and arena.
        passes: What to print of the passes, which to leave out, their options.
        tuning_records: A folder that `microddsp.tune` has filled: kernels that are known there are
            made as measured best. `CompiledModel.tuned` says which.

    Raises:
        CompileError: Something in the module cannot be compiled; says where and what to do.
        BudgetError: The result is larger than `budget`.
        ParameterError: An option has a value that makes no sense.
        RecordError: There are no tuning records, or they cannot be read.
    """
    limits = read_limits(budget)
    check_emit(emit)
    applied = _records(tuning_records, target, emit)
    built = build(
        module,
        example_inputs,
        target=target,
        name=name,
        input=input,
        taps=taps,
        unroll=unroll,
        io_in_arena=io_in_arena,
        narrow=narrow,
        emit=emit,
        memory=memory,
        passes=passes,
        choices=applied.session() if applied else None,
    )
    model = package_of(built, name, io_in_arena)
    if applied:
        model.tuned = applied.report(built.program.kernels)
    check_budget(model, limits)
    return model


def _records(folder: str | Path | None, target: str | Target, emit: str) -> Applied | None:
    if folder is None:
        return None
    from microddsp.tuning.apply import Applied

    chosen = find_target(target) if isinstance(target, str) else target
    return Applied(Path(folder), chosen, fits=lambda trial: fits(emit, trial.choices))


@dataclass(frozen=True, slots=True)
class Built:
    """A pipeline as kernels, not yet printed as C."""

    target: Target
    captured: Capture
    formats: list[Input]
    members: list[StateMember]
    layout: MemoryOptions
    graph: tvm.IRModule
    lowered: tvm.IRModule
    program: Program
    codes: dict[str, str]


def build(
    module: torch.nn.Module,
    example_inputs: torch.Tensor | Sequence[torch.Tensor],
    *,
    target: str | Target = "cortex-m4f",
    name: str = "model",
    input: Input | Mapping[str, Input] | None = None,
    taps: Sequence[str] = (),
    unroll: int | None = None,
    io_in_arena: bool = False,
    narrow: bool = False,
    emit: str = "c",
    memory: MemoryOptions | None = None,
    passes: PassOptions | None = None,
    choices: Session | None = None,
) -> Built:
    """All of `compile` but the packaging; kernels are made as `choices` decides.

    Raises:
        CompileError, ParameterError: As `compile` does.
    """
    chosen = find_target(target) if isinstance(target, str) else target
    _check_name(name)
    if unroll is not None and (isinstance(unroll, bool) or not 1 <= unroll <= MAX_UNROLL):
        raise ParameterError(f"unroll must be 1 to {MAX_UNROLL}, got {unroll}")
    check_emit(emit)
    captured = capture(module, example_inputs, taps=taps)
    _LOG.info("captured %s: %s inputs, %s states", name, len(captured.inputs), len(captured.states))
    formats = _formats(captured, input)
    members = _members(captured)
    layout = memory or MemoryOptions()
    with choosing(choices), pass_context(passes or PassOptions()), _named_failures():
        graph = decode_inputs(captured.module, formats)
        if choices is not None:
            graph = _with_zero_states(graph, captured)
        with tvm.target.Target({"kind": "c", "keys": ["cpu"]}):
            lowered = pipeline(unroll=unroll)(graph)
        program = build_program(
            lowered,
            name,
            inputs=[i.name for i in captured.inputs],
            outputs=[o.name for o in captured.outputs],
            states=[m.name for m in members],
            fma=chosen.fma,
            io_in_arena=io_in_arena,
            narrow=narrow,
            align=layout.workspace_align,
        )
    for kernel in program.kernels:
        _LOG.debug("kernel %s: %s lines of C", kernel.name, kernel.body.count("\n"))
    _LOG.info(
        "%s kernels in %s calls, arena of %s bytes",
        len(program.kernels),
        len(program.calls),
        program.plan.nbytes,
    )
    codes = codes_of(program.kernels, emit, choices)
    return Built(chosen, captured, formats, members, layout, graph, lowered, program, codes)


def _with_zero_states(graph: tvm.IRModule, captured: Capture) -> tvm.IRModule:
    """The graph that says which states are zero in the beginning."""
    inputs, outputs = len(captured.inputs), len(captured.outputs)
    pairs = [
        [inputs + i, outputs + i]
        for i, state in enumerate(captured.states)
        if not state.initial.any()
    ]
    marked = tvm.IRModule(dict(graph.functions_items()))
    marked["main"] = graph["main"].with_attr(ZERO_STATES, pairs)
    return marked


def package_of(built: Built, name: str, io_in_arena: bool) -> CompiledModel:
    program, members, layout = built.program, built.members, built.layout
    signature = _signature(
        name, built.captured, built.formats, members, program, io_in_arena, layout
    )
    apart = object_of(program.kernels, built.codes, built.target, name)
    objects = {} if apart is None else {f"{name}_kernels.o": apart}
    for file, content in objects.items():
        _LOG.info("object code of %s bytes in %s", len(content), file)
    return CompiledModel(
        name=name,
        target=built.target,
        signature=signature,
        sources=render(program, signature, members, codes=built.codes, memory=layout),
        objects=objects,
        tir=built.lowered.script(),
        relax=built.graph.script(),
        buffers=tuple(
            (b.name, b.nbytes, program.plan.offsets[b.name], b.first, b.last)
            for b in program.buffers
        ),
    )


@contextmanager
def _named_failures() -> Iterator[None]:
    """What TVM cannot lower is the user's to change: no traceback of its own."""
    try:
        yield
    except MicroddspError:
        raise
    except (RuntimeError, ValueError, TypeError, ArithmeticError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise CompileError(
            f"TVM cannot make kernels of this model: {reason}",
            hint="an operator, or a type that it has here, is not supported",
        ) from error


def _check_name(name: str) -> None:
    if not is_model_name(name):
        raise CompileError(
            f"{name!r} cannot prefix C names",
            hint="use letters, digits and underscores, and no name that C has already",
        )


def _formats(captured: Capture, given: Input | Mapping[str, Input] | None) -> list[Input]:
    names = [spec.name for spec in captured.inputs]
    if given is None:
        return [Input()] * len(names)
    if isinstance(given, Input):
        return [given] * len(names)
    for key in given:
        if key not in names:
            raise CompileError(f"the model has no input {key!r}", hint=nearest(key, names))
    return [given.get(name, Input()) for name in names]


def _members(captured: Capture) -> list[StateMember]:
    # Delay lines forget a NaN by themselves; a recursion would keep it for ever.
    lines = _states_of(captured, DELAY_LINES)
    counts = _states_of(captured, ("dsp.event_counter",))
    return [
        StateMember(f"s_{spec.name}", spec.initial, i not in lines, i in counts)
        for i, spec in enumerate(captured.states)
    ]


def _states_of(captured: Capture, operators: Sequence[str]) -> set[int]:
    """Indices of the states that these operators read."""
    main = captured.module["main"]
    states = list(main.params)[len(captured.inputs) :]
    values = [b.value for block in main.body.blocks for b in block.bindings]
    return {
        i
        for i, state in enumerate(states)
        for value in values
        if operator_name(value) in operators and any(arg.same_as(state) for arg in value.args)
    }


def _signature(
    name: str,
    captured: Capture,
    formats: Sequence[Input],
    members: Sequence[StateMember],
    program: Program,
    io_in_arena: bool,
    layout: MemoryOptions,
) -> Signature:
    inputs = tuple(_raw(spec, fmt) for spec, fmt in zip(captured.inputs, formats, strict=True))
    return Signature(
        name=name,
        inputs=inputs,
        outputs=captured.outputs,
        structure=captured.structure,
        block=int(captured.inputs[0].shape[-1]) if captured.inputs[0].shape else 1,
        state_bytes=_state_bytes(members, bool(program.plan.nbytes)),
        workspace_bytes=program.plan.nbytes,
        workspace_align=layout.workspace_align,
        sample_rate_hz=captured.sample_rate_hz,
        settle_samples=captured.settle_samples,
        io_in_arena=io_in_arena,
    )


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


def _state_bytes(members: Sequence[StateMember], workspace: bool) -> int:
    """sizeof the state struct on a 32-bit target."""
    at, widest = 4 + (4 if workspace else 0), 4
    for member in members:
        width = member.initial.dtype.itemsize
        widest = max(widest, width)
        at = -(-at // width) * width + member.elements * width
    return -(-at // widest) * widest
