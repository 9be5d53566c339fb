"""`microddsp pack`: several archives as one, for a firmware with all of their models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from microddsp.cli.arguments import check_archive
from microddsp.cli.render import show_facts, show_json


def pack_command(
    archives: Annotated[list[Path], typer.Argument(metavar="MODEL.tar...", help="What to join.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Archive to write.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Join models into one archive, each under its own name."""
    for path in archives:
        check_archive(path)
    if not output.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {str(output.parent)!r}")

    import microddsp

    models = [model for path in archives for model in microddsp.load_models(path).values()]
    microddsp.save(models, output)
    facts: dict[str, object] = {"archive": str(output), "models": [model.name for model in models]}
    if as_json:
        show_json(facts)
    else:
        show_facts("", facts | {"models": ", ".join(model.name for model in models)})
