"""`microddsp report`: one page on a model, and the same as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from microddsp.cli.arguments import (
    check_archive,
    check_board_here,
    parse_budget,
    parse_shapes,
    target_of,
)
from microddsp.cli.model_reference import HELP, ModelReference, load_module, parse_reference

if TYPE_CHECKING:
    import torch

    from microddsp.micro.package.model import CompiledModel


def report_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL.tar|MODEL", help=f"A compiled model, or {HELP}")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Page to write  [default: NAME.html]")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the content as JSON too.")
    ] = None,
    pipeline: Annotated[
        str | None, typer.Option(metavar="MODEL", help="What an archive was compiled from.")
    ] = None,
    board: Annotated[
        str | None,
        typer.Option(callback=check_board_here, help="Measure time and stack on it."),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option("-i", "--input", help="WAV, CSV or npz; noise otherwise."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Which one of an archive's several models.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="CSV column, by name or number, for each channel.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Show and refuse: ram=16K,flash=64K,stack=1K,load=50%@64MHz")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="To compile MODEL for  [default: the board's, cortex-m4f]")
    ] = None,
    block: Annotated[
        int | None, typer.Option(min=1, help="To compile MODEL with  [default: 64]")
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, help="To compile MODEL with  [default: 1]")
    ] = None,
    input_shape: Annotated[
        list[str] | None, typer.Option(help="name:channels,samples, instead of the two above.")
    ] = None,
) -> None:
    """Show what a model needs, where its time goes and how exact it is, in one page."""
    suffix = Path(model).suffix
    is_archive = suffix == ".tar" or ":" not in model and suffix not in (".py", ".pt2")
    options = (target, block, channels, input_shape)
    if is_archive and any(value is not None for value in options):
        raise typer.BadParameter("an archive is compiled already: no target, block or shape")
    if not is_archive and name is not None:
        raise typer.BadParameter("--name is for an archive with several models")
    if not is_archive and pipeline is not None:
        raise typer.BadParameter("--pipeline is for an archive: this model is its own")
    if is_archive:
        check_archive(Path(model))
    text = pipeline if is_archive else model
    reference = parse_reference(text) if text is not None else None
    limits = parse_budget(budget)
    shapes = parse_shapes(input_shape or ())
    chosen = target_of(target, board)
    for path in (output, json_file):
        if path is not None and not path.parent.is_dir():
            raise typer.BadParameter(f"there is no folder {str(path.parent)!r}")
        if path is not None and path.is_dir():
            raise typer.BadParameter(f"{str(path)!r} is a folder")
    if inputs is not None:
        check_archive(inputs)

    import microddsp

    if is_archive:
        compiled = microddsp.load(model, name)
        module = load_module(reference)[0] if reference else None
    else:
        assert reference is not None
        compiled, module = _compiled(reference, shapes, channels or 1, block or 64, chosen)
    x = _recording(compiled, inputs, column or ()) if inputs else None
    made = microddsp.report(compiled, module, x, board, budget=limits)
    page = output or Path(f"{compiled.name}.html")
    made.save(page)
    typer.echo(f"written: {page}")
    if json_file is not None:
        made.save_json(json_file)
        typer.echo(f"written: {json_file}")
    made.check_budget()


def _compiled(
    reference: ModelReference,
    shapes: dict[str, tuple[int, ...]],
    channels: int,
    block: int,
    target: str,
) -> tuple[CompiledModel, torch.nn.Module]:
    import microddsp
    from microddsp.cli.compile import example_blocks

    module, carried = load_module(reference)
    examples = carried if carried and not shapes else ()
    return (
        microddsp.compile(
            module,
            examples or example_blocks(module, shapes, channels, block),
            target=target,
            name=reference.default_name,
        ),
        module,
    )


def _recording(model: CompiledModel, path: Path, columns: Any) -> Any:
    from microddsp.cli.run import whole_blocks
    from microddsp.signals import read_inputs

    signals, dropped = whole_blocks(
        model.signature, read_inputs(path, model.signature, columns=columns), "drop"
    )
    if dropped:
        typer.echo(f"{dropped} samples at the end fill no block: left out", err=True)
    return tuple(signals)
