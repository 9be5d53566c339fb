"""`microddsp run`: a recording through a compiled model, on a board or on this computer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from microddsp.cli import render
from microddsp.cli.arguments import (
    check_archive,
    check_board,
    check_choice,
    check_port,
    parse_settings,
)
from microddsp.cli.model_reference import HELP, load_module, parse_reference
from microddsp.micro.boards import HOST, find_board
from microddsp.micro.farm.address import is_farm_address

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microddsp.micro.package.model import CompiledModel
    from microddsp.signature import Signature

    Arrays = Sequence[NDArray[Any]]


def run_command(
    archive: Annotated[
        Path, typer.Argument(metavar="MODEL.tar", callback=check_archive, help="A compiled model.")
    ],
    inputs: Annotated[
        Path, typer.Option("-i", "--input", callback=check_archive, help="WAV, CSV or npz.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="npz to write the outputs to.")
    ] = None,
    board: Annotated[
        str | None,
        typer.Option(callback=check_board, help="One of `microddsp boards`, host, or rpc://..."),
    ] = "mps2-an386",
    column: Annotated[
        list[str] | None, typer.Option(help="CSV column, by name or number, for each channel.")
    ] = None,
    tail: Annotated[
        str, typer.Option(help="A last block that is not full: error, or drop it.")
    ] = "drop",
    name: Annotated[str | None, typer.Option(help="Which one of several models.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Tunable number, name=value, before the first sample."),
    ] = None,
    verify: Annotated[
        str | None, typer.Option(metavar="MODEL", help=f"Compare with PyTorch: {HELP}")
    ] = None,
    print_time: Annotated[
        bool, typer.Option("--print-time", help="Time of a block on the board.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Time of each kernel of a block on the board.")
    ] = False,
    port: Annotated[
        str | None, typer.Option(help="Serial port of a real board; found by USB otherwise.")
    ] = None,
    serial_number: Annotated[
        str | None, typer.Option(help="Which one of several real boards.")
    ] = None,
    timeout_s: Annotated[
        float, typer.Option(min=0.001, help="The device must answer a call within this.")
    ] = 5.0,
    wait_s: Annotated[
        float, typer.Option(min=0.001, help="Wait that long for a free board of a farm.")
    ] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Stream a recording through a compiled model."""
    check_choice(tail, ("error", "drop"), "--tail")
    if output is not None and output.suffix != ".npz":
        raise typer.BadParameter("outputs are written as .npz, one array for each")
    if output is not None and not output.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {str(output.parent)!r}")
    check_port(board or HOST, port, serial_number)
    if verify is not None and setting:
        raise typer.BadParameter("--verify compares with the pipeline as it was compiled: no --set")
    reference = parse_reference(verify) if verify is not None else None
    settings = parse_settings(setting or ())

    import microddsp
    from microddsp.signals import read_inputs, write_npz

    on_farm = is_farm_address(board)
    model = microddsp.load(archive, name)
    recording = read_inputs(inputs, model.signature, columns=column or ())
    signals, dropped = whole_blocks(model.signature, recording, tail)
    result: dict[str, Any] = {"model": model.name, "board": board, "dropped_samples": dropped}
    if board in (None, HOST) and not (print_time or profile):
        for name, value in settings.items():
            model.set(name, value)
        values = model.run(*signals)
        if reference:
            report = microddsp.verify(load_module(reference)[0], model, *signals, locate=True)
            result["verification"] = report
    else:
        with microddsp.open_board(
            board or HOST,
            model,
            timeout_s=timeout_s,
            profile=profile and not on_farm and find_board(board or HOST).serial is not None,
            port=port,
            serial_number=serial_number,
            wait_s=wait_s,
        ) as session:
            for name, value in settings.items():
                session.set(name, value)
            values = session.run(*signals)
            if print_time:
                result["time"] = render.as_json(session.time(*signals))
            if profile and not on_farm:
                result["profile"] = [render.as_json(row) for row in session.profile(*signals)]
            if reference:
                pipeline = load_module(reference)[0]
                report = microddsp.verify(pipeline, model, *signals, board=session, locate=True)
                result["verification"] = report
    if profile and on_farm:  # one board after the other: there may be only one
        with microddsp.open_board(
            str(board), model, timeout_s=timeout_s, profile=True, wait_s=wait_s
        ) as session:
            result["profile"] = [render.as_json(row) for row in session.profile(*signals)]
    outputs = _by_name(model, values)
    if output is not None:
        write_npz(output, outputs)
        result["output"] = str(output)
    result["outputs"] = {name: _summary(array) for name, array in outputs.items()}
    if as_json:
        render.show_json({key: render.as_json(value) for key, value in result.items()})
    else:
        _show(result)


def whole_blocks(signature: Signature, signals: Arrays, tail: str) -> tuple[Arrays, int]:
    """Cut what does not fill a last block, and say how many samples that were."""
    if tail == "error":
        return signals, 0
    keep = []
    dropped = 0
    for spec, signal in zip(signature.inputs, signals, strict=True):
        step = spec.shape[0 if spec.interleaved else -1] if spec.shape else 1
        whole = signal.shape[-1] // step * step
        if whole == 0:
            # Nothing would be left: the model's own error says what a block is.
            return signals, 0
        dropped = max(dropped, signal.shape[-1] - whole)
        keep.append(signal[..., :whole])
    return keep, dropped


def _by_name(model: CompiledModel, values: Any) -> dict[str, NDArray[Any]]:
    import numpy as np

    structure = model.signature.structure
    if structure.kind == "dict":
        return {name: np.asarray(values[name]) for name in structure.names}
    flat = (values,) if structure.kind == "tensor" else tuple(values)
    return {name: np.asarray(v) for name, v in zip(structure.names, flat, strict=True)}


def _summary(array: NDArray[Any]) -> dict[str, Any]:
    summary: dict[str, Any] = {"shape": array.shape, "dtype": str(array.dtype)}
    if array.size:
        summary |= {"min": array.min(), "max": array.max(), "last": array[..., -1]}
    return summary


def _show(result: dict[str, Any]) -> None:
    rows = [
        (
            name,
            facts["dtype"],
            "x".join(map(str, facts["shape"])),
            facts.get("min", ""),
            facts.get("max", ""),
            facts["last"].ravel()[:4].tolist() if "last" in facts else "",
        )
        for name, facts in result["outputs"].items()
    ]
    columns = ("output", "type", "shape", "min", "max", "last sample")
    render.show_table(f"{result['model']} on {result['board']}", columns, rows)
    if result["dropped_samples"]:
        typer.echo(f"\n{result['dropped_samples']} samples at the end fill no block: left out")
    if "time" in result:
        typer.echo()
        render.show_facts("time", result["time"])
    if "verification" in result:
        typer.echo(f"\nverification: {result['verification']}")
    if "profile" in result:
        _show_profile(result["profile"])
    if "output" in result:
        typer.echo(f"\nwritten: {result['output']}")


def _show_profile(parts: Sequence[dict[str, Any]]) -> None:
    unit = parts[0]["unit"]
    rows = [
        (p["name"], p["minimum"], f"{p['median']:.0f}", p["maximum"], f"{100 * p['share']:.1f} %")
        for p in parts
    ]
    typer.echo()
    render.show_table(f"profile of a block, {unit}", ("", "min", "median", "max", "share"), rows)
