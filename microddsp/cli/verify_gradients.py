"""`microddsp verify-gradients`: a model's gradients beside finite differences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from microddsp.cli import render
from microddsp.cli.model_reference import HELP, load_module, parse_reference

if TYPE_CHECKING:
    from microddsp.training.gradients import GradientReport


def verify_gradients_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=HELP)],
    epsilon: Annotated[float, typer.Option(min=1e-9, help="Half the step of a difference.")] = 1e-3,
    tolerance: Annotated[float, typer.Option(min=1e-12, help="Largest relative error.")] = 1e-4,
    samples: Annotated[int, typer.Option(min=1, help="Length of the random input.")] = 256,
    channels: Annotated[int, typer.Option(min=1, help="Channels of the input.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the random input.")] = 0,
    csv: Annotated[Path | None, typer.Option(help="Table to write.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare reverse mode, forward mode and finite differences for every parameter."""
    if csv is not None and not csv.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {str(csv.parent)!r}")
    reference = parse_reference(model)

    import torch

    from microddsp.training.gradients import verify_gradients

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(channels, samples, generator=generator)
    report = verify_gradients(load_module(reference)[0], x, epsilon=epsilon, tolerance=tolerance)
    if csv is not None:
        report.write_csv(csv)
    if as_json:
        render.show_json(report.to_json())
    else:
        _show(report)
    report.raise_if_wrong()


def _show(report: GradientReport) -> None:
    columns = ("parameter", "value", "gradient", "forward", "difference", "|delta|", "relative", "")
    rows = [
        (
            row.name,
            row.value,
            row.reverse,
            row.forward,
            row.finite_difference,
            f"{row.delta:.1e}",
            "near zero" if row.relative_error is None else f"{row.relative_error:.1e}",
            "" if row.right else "WRONG",
        )
        for row in report.rows
    ]
    render.show_table(f"gradients, epsilon {report.epsilon:g}", columns, rows)
    typer.echo(f"\ndelta: mean {report.mean_delta:.2e}, deviation {report.deviation:.2e}")
    if report.surrogate:
        names = ", ".join(report.surrogate)
        typer.echo(f"by their smooth density, since counts are flat: {names}")
