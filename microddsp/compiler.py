"""From a PyTorch pipeline to C: the four stages in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from microddsp.budget import check_budget, read_limits
from microddsp.building import build
from microddsp.micro.aot.code import check_emit, fits
from microddsp.micro.aot.memory_options import MemoryOptions
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.targets import Target, find_target
from microddsp.packing import package_of
from microddsp.schedules.pass_options import PassOptions
from microddsp.signature import Input

if TYPE_CHECKING:
    import torch

    from microddsp.tuning.apply import Applied


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
    loops: int | None = None,
    io_in_arena: bool = False,
    narrow: bool = False,
    emit: str = "c",
    memory: MemoryOptions | None = None,
    passes: PassOptions | None = None,
    tunable: Sequence[str] | Mapping[str, str] = (),
    push: bool = False,
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
        budget: Limits in bytes for "flash", "constants" in it, "ram", "state" and "arena" in it,
            and "stack"; for "load" a text like "50%@64MHz": modelled cycles of a Cortex-M4F against
            the sample rate.
        unroll: Samples per pass of a sample loop; None chooses, usually eight. Fewer make the
            program smaller and a little slower.
        loops: Loops, 1 to 4, into which a long run of filters is cut; None chooses as many as it
            takes to keep states and coefficients in registers, for a block or two of memory between
            them, and one loop where a block has more than 256 samples.
        io_in_arena: Inputs and outputs lie inside the workspace, where they share memory with
            what is computed between them.
        narrow: Store tables of constants as 8- or 16-bit integers where that loses nothing: where
            all numbers are whole multiples of a power of two, as `training.round_weights` makes
            them. Flash for a little time; the numbers that are computed stay the same.
        emit: "c", or "obj": the kernels are an object file for the target, made by LLVM, and only
            what stands around them is C. With "any" tuning records say of each kernel which it is.
        memory: Alignments, sections for state, constants and arena, a planner of the arena.
        passes: What to print of the passes, which to leave out, their options.
        tunable: Numbers that `<name>_set_<number>` changes on the device, by path: "1.threshold",
            in the units of the constructor. A mapping gives the setters' names.
        push: Add `<name>_push`, which takes any number of samples and keeps what fills no block.
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
        loops=loops,
        io_in_arena=io_in_arena,
        narrow=narrow,
        emit=emit,
        memory=memory,
        passes=passes,
        tunable=tunable,
        push=push,
        choices=applied.session() if applied else None,
    )
    model = package_of(built)
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
