"""From a PyTorch module to Relax: the stages of the front end in order."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tvm
from torch import Tensor

from microddsp.dsp.block import Block, fixed_designs
from microddsp.dsp.foreign import settle_samples
from microddsp.dsp.streaming import reset, streaming
from microddsp.errors import CompileError, MicroddspError
from microddsp.frontend.aten.recurrent import RecurrentLayersAsScans
from microddsp.frontend.checks import (
    check_module,
    check_stability,
    sample_rate,
    warn_of_imprecision,
)
from microddsp.frontend.decomposing import decompose
from microddsp.frontend.diagnostics import failure, user_line
from microddsp.frontend.importing import prepare, to_relax
from microddsp.frontend.owned import Owned
from microddsp.frontend.scans import keep_samples_last
from microddsp.frontend.state_lifting import State, lift_states, separate_copies
from microddsp.frontend.structure import Tapped, check_names, structure_of
from microddsp.frontend.time_axis import stream_axes
from microddsp.frontend.tunables import (
    Number,
    Tunables,
    Tuned,
    check_starts,
    find_tunables,
    kept_designs,
)
from microddsp.frontend.units import binding_units, units_of
from microddsp.outline import Unit
from microddsp.relax_ops.origins import with_origins
from microddsp.relax_ops.registry import register_all
from microddsp.signature import OutputStructure, TensorSpec, check_block


@dataclass(frozen=True, slots=True)
class StateSpec:
    """A buffer that the module updates: its C name and what it starts from. A `setting` is only
    read; `path` is where the module has it."""

    name: str
    initial: np.ndarray
    path: str = ""
    setting: bool = False


@dataclass(frozen=True, slots=True)
class Design:
    """A graph that computes settings from tunable numbers: `main` takes `numbers` and gives the
    values of `settings` (paths), then 1 if all is valid."""

    module: tvm.IRModule
    numbers: tuple[Number, ...]
    settings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Capture:
    """A module as Relax: `main` takes inputs then states, gives outputs then new states. Its calls
    carry the number of the unit that they come from; `made_by` is that of each output."""

    module: tvm.IRModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...]
    structure: OutputStructure
    settle_samples: int
    sample_rate_hz: float | None
    units: tuple[Unit, ...]
    made_by: tuple[int, ...]
    plain: tuple[Number, ...] = ()
    designs: tuple[Design, ...] = ()


def capture(
    module: torch.nn.Module,
    example_inputs: Tensor | Sequence[Tensor],
    *,
    taps: Sequence[str] = (),
    tunable: Sequence[str] | Mapping[str, str] = (),
) -> Capture:
    """Trace one block of a stream. The module is left as it was.

    Raises:
        CompileError: The module fails on the example, has parameters that are not finite or a
            filter that is not stable, mixes time where it must not, or uses what cannot be
            compiled; says where and what to do.
    """
    inputs = _examples(example_inputs)
    check_module(module)
    names = _input_names(module, len(inputs))
    register_all()
    with _undisturbed(module) as owned, torch.no_grad():
        traced = Tapped(module, taps) if taps else module
        result = _try_run(module, traced, inputs)
        structure = structure_of(result)
        owned.check()
        owned.restore()
        settle = _settle(module)
        reset(module)
        tunables = find_tunables(module, tunable)
        check_starts(module, tunables)
        with fixed_designs(module), kept_designs(tunables):
            program = _export(traced, inputs)
        designs = tuple(_design(tuned) for tuned in tunables.tuned)
    check_names([*names], structure)
    _check_reached(program, tunables)
    states = lift_states(program, tunables.settings)
    prepare(program)
    check_stability(program)
    warn_of_imprecision(module)
    axes = stream_axes(program, states)
    keep_samples_last(program)
    placeholders = {state.placeholder: state.name for state in states}
    units, made_by, unit = units_of(program, traced, names, placeholders)
    imported = to_relax(program)
    return Capture(
        module=with_origins(imported, binding_units(imported["main"], program.graph.nodes, unit)),
        inputs=tuple(
            TensorSpec(name, tuple(x.shape), _dtype(x))
            for name, x in zip(names, inputs, strict=True)
        ),
        outputs=_outputs(imported, structure, axes),
        states=tuple(_state(state) for state in states),
        structure=structure,
        settle_samples=settle,
        sample_rate_hz=sample_rate(module),
        units=units,
        made_by=made_by[: len(structure.names)],
        plain=tunables.plain,
        designs=designs,
    )


def _design(tuned: Tuned) -> Design:
    """A block's design as a graph of its own."""
    program = _export(tuned.design(), tuple(number.value.float() for number in tuned.numbers))
    lift_states(program)
    prepare(program, doubles=True)
    return Design(to_relax(program), tuple(tuned.numbers), tuple(tuned.buffers()))


def _check_reached(program: torch.export.ExportedProgram, tunables: Tunables) -> None:
    """A number must act through what stays an input, and through nothing else.

    Raises:
        CompileError: The model does not use it, or uses it in another way too.
    """
    used = {node.name for node in program.graph.nodes if node.users}
    read = {
        spec.target.removeprefix("inner.")
        for spec in program.graph_signature.input_specs
        if spec.target is not None and spec.arg.name in used
    }
    for path in tunables.settings:
        if path not in read:
            raise CompileError("the compiled model does not use this number", where=path)
    for tuned in tunables.tuned:
        for path in tuned.parameters():
            if path in read:
                raise CompileError(
                    "this number acts in other ways than through the block's design",
                    where=path,
                    hint="it cannot be changed on the device",
                )


def _examples(example_inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    given = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    if not given:
        raise CompileError("give at least one example input, e.g. torch.zeros(1, 64)")
    for i, x in enumerate(given):
        if not isinstance(x, Tensor):
            raise CompileError(f"example input {i} is a {type(x).__name__}, not a tensor")
        if not x.numel():
            raise CompileError(
                f"example input {i} has shape {tuple(x.shape)}: a block must not be empty"
            )
        check_block(x.shape, f"example input {i}")
        if x.dtype == torch.float64:
            raise CompileError(
                f"example input {i} is float64", hint="devices compute in float32: x.float()"
            )
    return tuple(x.detach().clone() for x in given)


def _input_names(module: torch.nn.Module, count: int) -> list[str]:
    parameters = list(inspect.signature(module.forward).parameters.values())
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in parameters if p.default is p.empty and p.kind != p.VAR_POSITIONAL]
    if any(p.kind == p.VAR_POSITIONAL for p in parameters):
        names += [f"input{i}" for i in range(len(names), count)]
    if count > len(names) or count < len(required):
        raise CompileError(
            f"forward takes {len(required)} inputs ({', '.join(names)}), got {count} examples",
            where=type(module).__name__,
        )
    return names[:count]


@contextmanager
def _undisturbed(module: torch.nn.Module) -> Iterator[Owned]:
    """Evaluation and streaming mode inside; flags and the user's own state as before after."""
    flags = [(inner, inner.training) for inner in module.modules()]
    module.eval()
    with ExitStack() as stack:
        stack.enter_context(streaming(module))
        owned = Owned(module)
        try:
            yield owned
        finally:
            for inner, training in flags:
                inner.training = training
            owned.restore()


def _try_run(module: torch.nn.Module, traced: torch.nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    try:
        return traced(*inputs)
    except MicroddspError as error:
        raise CompileError(
            error.message, where=error.where or failure(module, error), hint=error.hint
        ) from error
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise CompileError(
            f"the module fails on the example: {error}", where=failure(module, error)
        ) from error


def _export(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with RecurrentLayersAsScans():
                program = torch.export.export(module, inputs, strict=False)
            separate_copies(program)
            return decompose(program)
    except MicroddspError:
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        first = str(error).strip().splitlines()[0]
        raise CompileError(
            f"the module cannot be traced: {first}",
            where=user_line(str(error)),
            hint="control flow must not depend on the values of tensors",
        ) from error


def _outputs(
    imported: tvm.IRModule, structure: OutputStructure, axes: Sequence[int | None]
) -> tuple[TensorSpec, ...]:
    fields = imported["main"].ret_ty.fields
    return tuple(
        TensorSpec(name, tuple(int(d) for d in ty.shape), str(ty.dtype), axis)
        for name, ty, axis in zip(structure.names, fields, axes, strict=False)
    )


def _state(state: State) -> StateSpec:
    value = state.initial.detach().cpu().numpy()
    path = state.target.removeprefix("inner.")
    return StateSpec(state.name, np.ascontiguousarray(copy.copy(value)), path, state.setting)


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _settle(module: torch.nn.Module) -> int:
    blocks = sum(b.settle_samples for b in module.modules() if isinstance(b, Block))
    return min(blocks + settle_samples(module), 2**31 - 1)
