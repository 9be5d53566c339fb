"""`microddsp fit`: a learnable pipeline takes after a given one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from microddsp.cli import render
from microddsp.cli.arguments import check_choice, refuse
from microddsp.cli.model_reference import HELP, load_module, parse_reference
from microddsp.errors import ParameterError

if TYPE_CHECKING:
    import torch

    from microddsp.training import Readings, Trained
    from microddsp.training.losses import Loss

LOSSES = ("l1", "l2", "log-cosh", "spectral", "multi-resolution")
NOISE = "noise"


def _check_input(text: str) -> str:
    if text != NOISE and not Path(text).is_file():
        raise typer.BadParameter(f"there is no file {text!r}; for random input write {NOISE!r}")
    return text


def _check_written(path: Path | None) -> Path | None:
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {str(path.parent)!r}")
    return path


def fit_command(
    signal: Annotated[
        str,
        typer.Option("-i", "--input", callback=_check_input, help="WAV, CSV, npz, or noise."),
    ],
    truth: Annotated[str, typer.Option("--ground-truth", metavar="MODEL", help=HELP)],
    learn: Annotated[str, typer.Option("--learn", metavar="MODEL", help="What is to learn.")],
    loss: Annotated[str, typer.Option(help=f"One of {', '.join(LOSSES)}.")] = "l1",
    lr: Annotated[float, typer.Option(min=0.0, help="Learning rate of Adam at the start.")] = 0.1,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 300,
    samples: Annotated[int, typer.Option(min=1, help="Length of random input.")] = 2000,
    channels: Annotated[int, typer.Option(min=1, help="Channels of the input.")] = 1,
    column: Annotated[
        list[str] | None, typer.Option(help="CSV column, by name or number, for each channel.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of random input.")] = 0,
    csv: Annotated[
        Path | None, typer.Option(callback=_check_written, help="Loss and values of each step.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(callback=_check_written, help="Picture of the same.")
    ] = None,
    plot_response: Annotated[
        Path | None,
        typer.Option(callback=_check_written, help="Picture of the frequency responses."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(callback=_check_written, help="Where training is kept.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint if there is one.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Learn the parameters of a pipeline from another one that knows them."""
    check_choice(loss, LOSSES, "--loss")
    if resume and checkpoint is None:
        raise typer.BadParameter("--resume needs --checkpoint")
    references = [parse_reference(text) for text in (truth, learn)]

    import torch

    from microddsp import training
    from microddsp.training import plots

    for option, picture in (("--plot", plot), ("--plot-response", plot_response)):
        try:
            plots.check_picture(picture or "")
        except ParameterError as error:
            raise refuse(error, option) from error
    target, module = (load_module(reference)[0] for reference in references)
    generator = torch.Generator().manual_seed(seed)
    if signal == NOISE:
        x = torch.randn(1, channels, samples, generator=generator)
    else:
        x = _recording(Path(signal), channels, column or [], target)[None]
    with torch.no_grad():
        batch = training.Batch(x, target(x))
    names = training.Readings(module)
    before = names.read()
    recorders: list[training.recorders.Recorder] = []
    if csv is not None:
        recorders.append(training.CsvRecorder(csv))
    if not as_json:
        recorders.append(training.ProgressRecorder())
    trained = training.train(
        module,
        training.whole(batch),
        training.compare(_loss(loss)),
        steps=steps,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=lr),
        # large steps find the place, small ones end there: 1 % of the rate at the end
        schedule=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(
            optimizer, 0.01 ** (1 / steps)
        ),
        checkpoint=None
        if checkpoint is None
        else training.Checkpoint(checkpoint, every=50, resume=resume),
        recorders=recorders,
    )
    truths = training.Readings(target).read()
    if plot is not None:
        plots.plot_history(trained.history, plot, targets=truths)
    if plot_response is not None:
        rate = _sample_rate(target) or 1.0
        pair = {"target": target, "learned": module}
        plots.plot_responses(pair, plot_response, sample_rate_hz=rate)
    _show(_result(trained, before, names, truths), as_json)


def _loss(name: str) -> Loss:
    from microddsp.training import losses, spectral_losses

    return {
        "l1": losses.l1,
        "l2": losses.l2,
        "log-cosh": losses.log_cosh,
        "spectral": spectral_losses.spectral,
        "multi-resolution": spectral_losses.multi_resolution_spectral,
    }[name]


def _sample_rate(module: torch.nn.Module) -> float | None:
    from microddsp.frontend.checks import sample_rate

    return sample_rate(module)


def _recording(
    path: Path, channels: int, columns: list[str], module: torch.nn.Module
) -> torch.Tensor:
    """(channels, samples) float32, of the sample rate that the module is made for."""
    import torch

    from microddsp.errors import SignalError
    from microddsp.signals import read_inputs
    from microddsp.signature import InputSpec, OutputStructure, Signature

    spec = InputSpec("x", (channels, 1), "float32")
    rate = _sample_rate(module)
    signature = Signature("fit", (spec,), (), OutputStructure(), 1, 0, 0, sample_rate_hz=rate)
    found = torch.from_numpy(read_inputs(path, signature, columns=columns)[0])
    if found.dim() != 2 or found.shape[0] != channels:
        raise SignalError(
            f"holds {tuple(found.shape)}, not {channels} channels of samples",
            where=str(path),
            hint="--channels says how many",
        )
    return found


def _result(
    trained: Trained, before: dict[str, float], readings: Readings, truths: dict[str, float]
) -> dict[str, Any]:
    rows = []
    for name, value in readings.read().items():
        row: dict[str, Any] = {"name": name, "start": before[name], "learned": value}
        if name in truths:
            row |= {"target": truths[name], "error": value - truths[name]}
        rows.append(row)
    return {"steps": len(trained.history), "loss": trained.loss, "parameters": rows}


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        render.show_json(result)
        return
    columns = ("name", "start", "learned", "target", "error")
    rows = [tuple(row.get(column, "") for column in columns) for row in result["parameters"]]
    render.show_table(f"loss {result['loss']:.4g} after {result['steps']} steps", columns, rows)
