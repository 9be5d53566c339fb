"""`microddsp compile`: a model in, an archive out, and what it will take on the device."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from microddsp.cli.arguments import (
    check_choice,
    check_name,
    check_target,
    parse_budget,
    parse_list,
    parse_memory,
    parse_options,
    parse_shapes,
    parse_tunables,
    refuse,
)
from microddsp.cli.model_reference import HELP, load_module, parse_reference
from microddsp.cli.render import describe, show_facts, show_json
from microddsp.errors import BoardError, MicroddspError, ParameterError, nearest
from microddsp.signature import INPUT_DTYPES, Input, check_block

CODE_KINDS = ("c", "tir", "relax")

if TYPE_CHECKING:
    import torch

    from microddsp.micro.package.model import CompiledModel


def compile_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=HELP)],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Archive to write  [default: NAME.tar]")
    ] = None,
    target: Annotated[
        str, typer.Option(callback=check_target, help="CPU; `microddsp targets` lists them.")
    ] = "cortex-m4f",
    block: Annotated[int, typer.Option(min=1, help="Samples a channel in one call.")] = 64,
    channels: Annotated[int, typer.Option(min=1, help="Channels of the input.")] = 1,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(help="name:channels,samples, for each input, instead of the two above."),
    ] = None,
    input_dtype: Annotated[
        str, typer.Option(help=f"What the device delivers: {', '.join(INPUT_DTYPES)}.")
    ] = "f32",
    input_scale: Annotated[
        float | None, typer.Option(help="value = (raw - offset) * scale")
    ] = None,
    input_offset: Annotated[float, typer.Option(help="The raw value that means zero.")] = 0.0,
    input_unit: Annotated[str, typer.Option(help="Unit of the scaled value, for the header.")] = "",
    interleaved: Annotated[
        bool, typer.Option("--interleaved", help="Samples come as frames of all channels.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(callback=check_name, help="Prefix of all C names  [default: the factory's]"),
    ] = None,
    tap: Annotated[
        list[str] | None, typer.Option(help="Path of an inner block whose signal comes out too.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Fail when larger: ram=16K,flash=64K,stack=1K,load=50%@64MHz")
    ] = None,
    unroll: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Samples a pass: fewer are smaller and slower."),
    ] = None,
    loops: Annotated[
        int | None,
        typer.Option(min=1, max=4, help="Loops for a long run of filters, else as registers ask."),
    ] = None,
    io_in_arena: Annotated[
        bool, typer.Option("--io-in-arena", help="Inputs and outputs lie inside the workspace.")
    ] = False,
    narrow: Annotated[
        bool, typer.Option("--narrow", help="Store rounded constants in 8 or 16 bits.")
    ] = False,
    tuning_records: Annotated[
        Path | None, typer.Option(help="Folder of `microddsp tune`: kernels as measured best.")
    ] = None,
    emit: Annotated[
        str,
        typer.Option(help="c; obj: kernels as object code by LLVM; any: as tuning records say."),
    ] = "c",
    workspace_byte_alignment: Annotated[
        int, typer.Option(help="Of the workspace and all in it: 8, 16, 32 or 64.")
    ] = 8,
    constant_byte_alignment: Annotated[
        int | None, typer.Option(help="Of tables: 8, 16, 32 or 64  [default: their type's]")
    ] = None,
    section: Annotated[
        str | None,
        typer.Option(help="Linker sections: state=.dtcm,constants=.flash_ext,arena=.bss.fast"),
    ] = None,
    tunable: Annotated[
        list[str] | None,
        typer.Option(help="Number that the device may change: 1.threshold, or name=1.threshold."),
    ] = None,
    push: Annotated[
        bool, typer.Option("--push", help="Add NAME_push, which takes any number of samples.")
    ] = False,
    dump_code: Annotated[
        str | None, typer.Option(help="Write what the model was on its way: c,tir,relax")
    ] = None,
    dump_folder: Annotated[
        Path | None, typer.Option(help="Where --dump-code writes  [default: NAME.code]")
    ] = None,
    print_ir_before: Annotated[
        str | None, typer.Option(help="Print the IR before these passes: FuseOps,...")
    ] = None,
    print_ir_after: Annotated[
        str | None, typer.Option(help="Print the IR after these passes.")
    ] = None,
    pass_config: Annotated[
        list[str] | None, typer.Option(help="An option of TVM's passes, NAME=VALUE.")
    ] = None,
    disabled_pass: Annotated[
        str | None, typer.Option(help="Leave these passes out: FuseOps,...")
    ] = None,
    print_pass_times: Annotated[
        bool, typer.Option("--print-pass-times", help="Print the time of every pass.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compile a trained pipeline into an archive with two C files."""
    reference = parse_reference(model)
    shapes = parse_shapes(input_shape or ())
    limits = parse_budget(budget)
    check_choice(emit, ("c", "obj", "any"), "--emit")
    memory = parse_memory(workspace_byte_alignment, constant_byte_alignment, section)
    dumped = parse_list(dump_code, CODE_KINDS, "--dump-code")
    configured = parse_options(pass_config or ())
    numbers = parse_tunables(tunable or ())
    check_choice(input_dtype, tuple(INPUT_DTYPES), "--input-dtype")
    try:
        samples = Input(input_dtype, input_scale, input_offset, input_unit, interleaved)
    except ParameterError as error:
        raise typer.BadParameter(str(error)) from error
    chosen = name or reference.default_name
    archive = output or Path(f"{chosen}.tar")
    if not archive.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {str(archive.parent)!r}")

    import microddsp
    from microddsp.schedules.pass_options import PassOptions, configuration

    passes = PassOptions(
        print_before=parse_list(print_ir_before),
        print_after=parse_list(print_ir_after),
        disabled=parse_list(disabled_pass),
        config=configured,
        times=print_pass_times,
        show=lambda text: typer.echo(text, err=True),  # stdout is for the report
    )
    try:
        configuration(passes)
    except ParameterError as error:
        raise refuse(error) from error
    module, carried = load_module(reference)
    compiled = microddsp.compile(
        module,
        carried if carried and not shapes else example_blocks(module, shapes, channels, block),
        target=target,
        name=chosen,
        input=None if samples == Input() else samples,
        taps=tuple(tap or ()),
        budget=limits or None,
        unroll=unroll,
        loops=loops,
        io_in_arena=io_in_arena,
        narrow=narrow,
        emit=emit,
        tuning_records=tuning_records,
        memory=memory,
        tunable=numbers,
        push=push,
        passes=passes,
    )
    if dumped:
        compiled.dump(dump_folder or Path(f"{chosen}.code"), dumped)
    compiled.save(archive)
    report = _report(compiled, archive)
    if as_json:
        show_json(report)
    else:
        _show(compiled, report)


def example_blocks(
    module: torch.nn.Module, shapes: dict[str, tuple[int, ...]], channels: int, block: int
) -> tuple[torch.Tensor, ...]:
    """Blocks of zeros, in the order in which the module's forward takes them."""
    import torch

    for name, shape in (shapes or {"": (channels, block)}).items():
        check_block(shape, name)
    if not shapes:
        return (torch.zeros(channels, block),)
    order = list(shapes)
    parameters = inspect.signature(module.forward).parameters
    named = [p.name for p in parameters.values() if p.kind is not inspect.Parameter.VAR_POSITIONAL]
    if len(shapes) > 1 and len(named) == len(parameters):
        for name in shapes:
            if name not in named:
                raise MicroddspError(f"the model has no input {name!r}", hint=nearest(name, named))
        order = [name for name in named if name in shapes]
    return tuple(torch.zeros(shapes[name]) for name in order)


def _report(model: CompiledModel, archive: Path) -> dict[str, Any]:
    try:
        memory: dict[str, Any] | None = model.memory.to_json()
        missing = ""
    except BoardError as error:
        # The C is complete without the cross compiler; only its size cannot be told.
        memory, missing = None, error.message
    return {
        "name": model.name,
        "target": model.target.name,
        "archive": str(archive),
        "digest": model.digest,
        "signature": model.signature.to_json(),
        "memory": memory,
        "memory_missing": missing,
        "tuned": [asdict(row) | {"gain": row.gain} for row in model.tuned],
    }


def _show(model: CompiledModel, report: dict[str, Any]) -> None:
    signature = model.signature
    memory = report["memory"]
    facts: dict[str, object] = {
        "inputs": ", ".join(map(describe, signature.inputs)),
        "outputs": ", ".join(map(describe, signature.outputs)),
        "settles in": f"{signature.settle_samples} samples",
    }
    if memory:
        facts["flash"] = f"{memory['flash_bytes']} bytes"
        facts["RAM"] = (
            f"{memory['ram_bytes']} bytes (state {memory['state_bytes']}, "
            f"arena {memory['arena_bytes']})"
        )
        facts["stack"] = f"{memory['stack_bytes']} bytes"
    else:
        facts["size"] = f"not measured: {report['memory_missing']}"
    for row in model.tuned:
        gain = "" if row.gain is None else f", {row.gain:.1%} less than usual"
        facts[f"tuned {row.kernel}"] = f"{row.value:g} {row.metric}{gain}"
    facts["archive"] = report["archive"]
    show_facts(f"{model.name} for {model.target.name}", facts)
