"""From a PyTorch pipeline to kernels: the first three stages, and the operators as C functions."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tvm

from microddsp.errors import CompileError, MicroddspError, ParameterError, nearest
from microddsp.frontend import capture
from microddsp.micro.aot.code import check_emit, codes_of
from microddsp.micro.aot.memory_options import MemoryOptions
from microddsp.micro.aot.program import Program, build_program
from microddsp.micro.aot.setters import DesignProgram, Setter, build_setters
from microddsp.micro.aot.states import StateMember
from microddsp.micro.package.names import is_model_name
from microddsp.micro.targets import Target, find_target
from microddsp.relax_ops.choices import Session, choosing
from microddsp.schedules.decode_inputs import decode_inputs
from microddsp.schedules.fuse_sample_loops import ZERO_STATES
from microddsp.schedules.graph import operator_name
from microddsp.schedules.pass_options import PassOptions, pass_context
from microddsp.schedules.pipeline import lower
from microddsp.schedules.sample_loop import MOST_LOOPS, LoopShape
from microddsp.signature import Input

if TYPE_CHECKING:
    import torch

    from microddsp.frontend.capture import Capture, StateSpec

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


@dataclass(frozen=True, slots=True)
class Built:
    """A pipeline as kernels, not yet printed as C. `codes` is who makes each kernel's machine code,
    `units` what of the pipeline each kernel call computes."""

    name: str
    target: Target
    captured: Capture
    formats: list[Input]
    members: list[StateMember]
    layout: MemoryOptions
    io_in_arena: bool
    push: bool
    graph: tvm.IRModule
    lowered: tvm.IRModule
    program: Program
    units: Sequence[tuple[int, ...]]
    setters: Sequence[Setter]
    designs: Sequence[DesignProgram]
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
    loops: int | None = None,
    io_in_arena: bool = False,
    narrow: bool = False,
    emit: str = "c",
    memory: MemoryOptions | None = None,
    passes: PassOptions | None = None,
    tunable: Sequence[str] | Mapping[str, str] = (),
    push: bool = False,
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
    if loops is not None and (isinstance(loops, bool) or not 1 <= loops <= MOST_LOOPS):
        raise ParameterError(f"loops must be 1 to {MOST_LOOPS}, got {loops}")
    shape = LoopShape(unroll, loops)
    check_emit(emit)
    captured = capture(module, example_inputs, taps=taps, tunable=tunable)
    if push:
        _check_push(captured, io_in_arena)
    _LOG.info("captured %s: %s inputs, %s states", name, len(captured.inputs), len(captured.states))
    formats = _formats(captured, input)
    members = _members(captured)
    by_path = {spec.path: m.name for spec, m in zip(captured.states, members, strict=True)}
    layout = memory or MemoryOptions()
    with pass_context(passes or PassOptions()), _named_failures():
        with choosing(choices):
            graph = decode_inputs(captured.module, formats)
            if choices is not None:
                graph = _with_zero_states(graph, captured)
            with tvm.target.Target({"kind": "c", "keys": ["cpu"]}):
                lowered, units = lower(graph, shape)
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
                planner=layout.planner,
            )
        setters, designs = build_setters(captured, name, by_path, fma=chosen.fma, loops=shape)
    _check_setters(captured, [setter.name for setter in setters])
    members += [
        StateMember(s.member, s.value, False, setting=True) for s in setters if s.design is not None
    ]
    for kernel in program.kernels:
        _LOG.debug("kernel %s: %s lines of C", kernel.name, kernel.body.count("\n"))
    _LOG.info(
        "%s kernels in %s calls, arena of %s bytes",
        len(program.kernels),
        len(program.calls),
        program.plan.nbytes,
    )
    codes = codes_of(program.kernels, emit, choices)
    return Built(
        name=name,
        target=chosen,
        captured=captured,
        formats=formats,
        members=members,
        layout=layout,
        io_in_arena=io_in_arena,
        push=push,
        graph=graph,
        lowered=lowered,
        program=program,
        units=units,
        setters=setters,
        designs=designs,
        codes=codes,
    )


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


def _check_push(captured: Capture, io_in_arena: bool) -> None:
    """Any number of samples makes sense where all inputs are signals of one length."""
    if io_in_arena:
        raise ParameterError(
            "inputs in the workspace do not last from call to call",
            hint="push, or io_in_arena, not both",
        )
    for spec in (*captured.inputs, *captured.outputs):
        if spec.name in ("samples", "taken") or spec.name.startswith("push_"):
            raise ParameterError(f"with push no input or output can be called {spec.name!r}")
    lengths = {spec.shape[-1] if len(spec.shape) == 2 else None for spec in captured.inputs}
    if len(lengths) != 1 or None in lengths:
        raise ParameterError("push needs inputs (channels, samples) of one length")


def _check_setters(captured: Capture, names: Sequence[str]) -> None:
    """<NAME>_SET_GAIN_LEN must not be the length of an input `set_gain`."""
    taken = {spec.name.upper() for spec in (*captured.inputs, *captured.outputs)}
    for name in names:
        if f"SET_{name.upper()}" in taken:
            raise CompileError(f"set_{name} is a setter, and an input or output too")


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
        StateMember(member_name(spec), spec.initial, False, setting=True)
        if spec.setting
        else StateMember(member_name(spec), spec.initial, i not in lines, i in counts)
        for i, spec in enumerate(captured.states)
    ]


def member_name(state: StateSpec) -> str:
    """What a state or a number that can be set is called in the struct."""
    return f"{'p' if state.setting else 's'}_{state.name}"


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
