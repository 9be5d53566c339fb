"""`microddsp micro`: firmware projects made from a compiled model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from microddsp.cli.arguments import check_archive, parse_options, refuse
from microddsp.cli.render import as_json as plain
from microddsp.cli.render import show_facts, show_json, show_table
from microddsp.errors import MicroddspError, OptionError, ParameterError, TemplateError
from microddsp.micro.platforms import (
    PLATFORMS,
    TEMPLATE,
    Option,
    Platform,
    Template,
    build_project,
    check_options,
    find_platform,
    flash_project,
)
from microddsp.micro.platforms.project import MANIFEST, check_folder
from microddsp.micro.project_api.server import PROGRAM
from microddsp.micro.self_test import run_project

micro = typer.Typer(
    name="micro",
    no_args_is_help=True,
    help="Make, build and run firmware projects.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _check_project(directory: Path) -> Path:
    if not directory.is_dir():
        raise typer.BadParameter(f"there is no folder {str(directory)!r}")
    if not (directory / MANIFEST).is_file():
        raise typer.BadParameter(
            f"{str(directory)!r} is no project: it has no {MANIFEST}\n"
            "microddsp micro create makes one"
        )
    return directory


@contextmanager
def _options_refused() -> Iterator[None]:
    """A wrong -o is a wrong argument, also where only the project knows that."""
    try:
        yield
    except (OptionError, ParameterError) as error:
        raise refuse(error) from error


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Write into a folder that has files.")]
Options = Annotated[
    list[str] | None, typer.Option("-o", "--option", help="key=value of the platform.")
]
Project = Annotated[
    Path,
    typer.Argument(metavar="DIR", callback=_check_project, help="A project of `micro create`."),
]
TemplateDir = Annotated[
    Path | None,
    typer.Option("--template-dir", metavar="DIR", help="Of platform template: its server runs."),
]
_NAMES = "|".join((*PLATFORMS, TEMPLATE))


@micro.command("create")
def create(
    archive: Annotated[
        Path | None, typer.Argument(metavar="MODEL.tar", help="A compiled model.")
    ] = None,
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="New folder to write.")
    ] = None,
    platform: Annotated[str, typer.Option("--platform", metavar=_NAMES, help="Kind.")] = "qemu",
    template_dir: TemplateDir = None,
    board: Annotated[str | None, typer.Option("--board", help="Short for -o board=...")] = None,
    option: Options = None,
    list_options: Annotated[
        bool, typer.Option("--list-options", help="Show the platform's options and end.")
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a firmware project with the model in it."""
    if list_options:
        _show_options(_find(platform, template_dir), as_json)
        return
    if archive is None or directory is None:
        raise typer.BadParameter("Missing argument: microddsp micro create MODEL.tar DIR")
    if directory.is_file() and not archive.is_file():
        raise typer.BadParameter(
            f"the model comes first: microddsp micro create {directory} {archive}\n"
            "tvmc's order is that of micro create-project"
        )
    check_archive(archive)
    given = parse_options(option or ())
    if board is not None:
        if given.get("board", board) != board:
            raise typer.BadParameter("--board and -o board=... differ")
        given["board"] = board
    _create(directory, archive, _find(platform, template_dir), given, force, as_json)


@micro.command("create-project")
def create_project(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New folder to write.")],
    archive: Annotated[
        Path, typer.Argument(metavar="MODEL.tar", callback=check_archive, help="A compiled model.")
    ],
    platform: Annotated[str, typer.Argument(metavar="PLATFORM", help=_NAMES)],
    template_dir: TemplateDir = None,
    option: Options = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """The same as `create`, with tvmc's order of arguments."""
    given = parse_options(option or ())
    _create(directory, archive, _find(platform, template_dir), given, force, as_json)


def _find(platform: str, template_dir: Path | None) -> Platform:
    if (platform == TEMPLATE) != (template_dir is not None):
        raise typer.BadParameter("platform template and --template-dir go together")
    if template_dir is not None:
        if not (template_dir / PROGRAM).is_file():
            raise typer.BadParameter(
                f"there is no template in {str(template_dir)!r}: it has no {PROGRAM}\n"
                "docs/project-api.md tells how"
            )
        return Template(template_dir)
    try:
        return find_platform(platform)
    except MicroddspError as error:
        raise refuse(error) from error


def _create(
    directory: Path,
    archive: Path,
    platform: Platform,
    given: dict[str, str],
    force: bool,
    as_json: bool,
) -> None:
    try:
        options = check_options(platform, given)
    except TemplateError:
        raise  # the template's fault, not the arguments'
    except MicroddspError as error:
        raise refuse(error) from error
    check_folder(directory, force)

    import microddsp
    from microddsp.micro.platforms import create_project as write

    models = microddsp.load_models(archive)
    with _options_refused():
        project = write(
            directory, list(models.values()), options=options, platform=platform, force=True
        )
    facts: dict[str, object] = {"project": str(directory), "platform": platform.name}
    if project.board:
        facts["board"] = project.board.name
    _show({**facts, "model": ", ".join(models)}, as_json)


def _show_options(platform: Platform, as_json: bool) -> None:
    if as_json:
        show_json(
            [
                {
                    "name": option.name,
                    "help": option.help,
                    "type": option.type,
                    "default": option.default,
                    "choices": list(option.known()),
                    "closed": option.closed,
                    "required": list(option.required),
                    "optional": list(option.optional),
                }
                for option in platform.options
            ]
        )
        return
    columns = ("option", "type", "default", "needed by", "meaning", "choices")
    rows = [
        (o.name, o.type, o.default, _need(o), o.help, ", ".join(o.known()))
        for o in platform.options
    ]
    show_table(f"-o of platform {platform.description}", columns, rows)


_COMMANDS = {"generate_project": "create", "open_transport": "run"}


def _need(option: Option) -> str:
    """Which commands need an option, and, in parentheses, which take it."""
    needed = [_COMMANDS.get(step, step) for step in option.required]
    return ", ".join([*needed, *(f"({_COMMANDS.get(step, step)})" for step in option.optional)])


@micro.command("build")
def build(directory: Project, option: Options = None, as_json: Json = False) -> None:
    """Compile a project; this runs its own build."""
    with _options_refused():
        image = build_project(directory, parse_options(option or ()))
    _show({"project": str(directory), "image": str(image)}, as_json)


Port = Annotated[
    str | None, typer.Option(help="Serial port of a real board; found by USB otherwise.")
]
SerialNumber = Annotated[str | None, typer.Option(help="Which one of several real boards.")]


@micro.command("flash")
def flash(
    directory: Project,
    port: Port = None,
    serial_number: SerialNumber = None,
    option: Options = None,
    as_json: Json = False,
) -> None:
    """Write a built project into a real board."""
    options = parse_options(option or ())
    with _options_refused():
        flash_project(directory, port=port, serial_number=serial_number, options=options)
    _show({"project": str(directory), "flashed": True}, as_json)


@micro.command("run")
def run(
    directory: Project,
    port: Port = None,
    serial_number: SerialNumber = None,
    option: Options = None,
    as_json: Json = False,
) -> None:
    """Start a built project and report what it answers."""
    options = parse_options(option or ())
    with _options_refused():
        reports = run_project(directory, port=port, serial_number=serial_number, options=options)
    if as_json:
        facts = [plain(report) for report in reports]
        show_json(facts[0] if len(facts) == 1 else facts)
        return
    for report in reports:
        _show(plain(report), as_json)


@micro.command("debug")
def debug(
    directory: Project,
    inputs: Annotated[
        Path | None, typer.Option("-i", "--input", help="What to run it with; silence otherwise.")
    ] = None,
    gdb_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Of this computer; any free one otherwise.")
    ] = None,
    port: Port = None,
    serial_number: SerialNumber = None,
) -> None:
    """Start a built project under a server for gdb, until Ctrl-C."""
    if inputs is not None:
        check_archive(inputs)
    from microddsp.micro.debugger import DebugServer
    from microddsp.micro.platforms import read_project

    project = read_project(directory)
    signals = None
    if inputs is not None:
        from microddsp.signals import read_inputs

        signals = read_inputs(inputs, project.signatures[0])
    with DebugServer(
        project, signals, gdb_port=gdb_port, port=port, serial_number=serial_number
    ) as server:
        try:
            typer.echo(f"{server.board.name} waits for gdb at {server.address}:")
            typer.echo(f"  {server.gdb_command}")
            if not server.has_lines:
                typer.echo("the firmware has no line information: build it with -g", err=True)
            typer.echo("Ctrl-C ends it")
            server.wait()
        except KeyboardInterrupt:
            typer.echo("ended")


def _show(facts: dict[str, object], as_json: bool) -> None:
    if as_json:
        show_json(facts)
    else:
        show_facts("", facts)
