"""`microddsp micro`: firmware projects made from a compiled model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from microddsp.cli.arguments import check_archive, parse_options, refuse
from microddsp.errors import MicroddspError
from microddsp.micro.platforms import check_options, find_platform

micro = typer.Typer(
    name="micro",
    no_args_is_help=True,
    help="Make, build and run firmware projects.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Project = Annotated[Path, typer.Argument(metavar="DIR", help="A project of create-project.")]


@micro.command("create-project")
def create_project(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New folder to write.")],
    archive: Annotated[
        Path, typer.Argument(metavar="MODEL.tar", callback=check_archive, help="A compiled model.")
    ],
    platform: Annotated[str, typer.Argument(metavar="PLATFORM", help="qemu")],
    option: Annotated[
        list[str] | None, typer.Option("-o", "--option", help="key=value of the platform.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder that exists.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a firmware project with the model in it."""
    try:
        chosen = find_platform(platform)
        options = check_options(chosen, parse_options(option or ()))
    except MicroddspError as error:
        raise refuse(error) from error
    raise typer.BadParameter(f"{chosen} {options} {directory} {archive} {force} {as_json}")
