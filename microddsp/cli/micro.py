"""`microddsp micro`: firmware projects made from a compiled model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from microddsp.cli.arguments import check_archive, parse_options, refuse
from microddsp.cli.render import as_json as plain
from microddsp.cli.render import show_facts, show_json
from microddsp.errors import MicroddspError
from microddsp.micro.platforms import (
    build_project,
    check_options,
    find_platform,
    flash_project,
    generate_project,
    read_project,
    run_project,
)

micro = typer.Typer(
    name="micro",
    no_args_is_help=True,
    help="Make, build and run firmware projects.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _check_project(directory: Path) -> Path:
    if not directory.is_dir():
        raise typer.BadParameter(f"there is no folder {str(directory)!r}")
    return directory


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Project = Annotated[
    Path,
    typer.Argument(metavar="DIR", callback=_check_project, help="A project of create-project."),
]


@micro.command("create-project")
def create_project(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New folder to write.")],
    archive: Annotated[
        Path, typer.Argument(metavar="MODEL.tar", callback=check_archive, help="A compiled model.")
    ],
    platform: Annotated[str, typer.Argument(metavar="PLATFORM", help="qemu, host or serial")],
    option: Annotated[
        list[str] | None, typer.Option("-o", "--option", help="key=value of the platform.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder that has files.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a firmware project with the model in it."""
    given = parse_options(option or ())
    try:
        chosen = find_platform(platform)
        options = check_options(chosen, given)
    except MicroddspError as error:
        raise refuse(error) from error
    if not force and directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise MicroddspError("is there and not empty", where=str(directory), hint="--force")

    import microddsp

    model = microddsp.load(archive)
    generate_project(model, directory, chosen, options)
    _show({"project": str(directory), "platform": platform, "model": model.name}, as_json)


@micro.command("build")
def build(directory: Project, as_json: Json = False) -> None:
    """Compile a project; this runs its Makefile."""
    image = build_project(directory)
    _show({"project": str(directory), "image": str(image)}, as_json)


Port = Annotated[
    str | None, typer.Option(help="Serial port of a real board; found by USB otherwise.")
]
SerialNumber = Annotated[str | None, typer.Option(help="Which one of several real boards.")]


@micro.command("flash")
def flash(
    directory: Project, port: Port = None, serial_number: SerialNumber = None, as_json: Json = False
) -> None:
    """Write a built project into a real board, with the tool that the board's file names."""
    project = read_project(directory)
    flash_project(project, port=port, serial_number=serial_number)
    _show({"project": str(directory), "board": project.board.name}, as_json)


@micro.command("run")
def run(
    directory: Project, port: Port = None, serial_number: SerialNumber = None, as_json: Json = False
) -> None:
    """Start a built project and report what it answers."""
    report = run_project(directory, port=port, serial_number=serial_number)
    _show(plain(report), as_json)


def _show(facts: dict[str, object], as_json: bool) -> None:
    if as_json:
        show_json(facts)
    else:
        show_facts("", facts)
