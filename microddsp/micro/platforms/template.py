"""Projects of third parties: a platform whose functions are methods of a server program."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from microddsp.errors import ArchiveError, BoardError, OptionError, TemplateError
from microddsp.micro.boards import Board
from microddsp.micro.boards.catalogue import wrong_fields
from microddsp.micro.platforms.platform import Option, Project
from microddsp.micro.platforms.processes import first_errors
from microddsp.micro.platforms.texts import RUNTIME, check_model_names, render, server_values
from microddsp.micro.project_api import server as api
from microddsp.micro.project_api.client import ProjectClient
from microddsp.micro.rpc.start import check_built

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

TEMPLATE = "template"
_TRUTH = {"yes": True, "true": True, "no": False, "false": False}


@dataclass(frozen=True)
class Template:
    """A folder with a server program: a template, or a project made from one.

    The program is started for each thing that is asked, and ends with it.
    """

    folder: Path

    name = TEMPLATE
    serves = True

    @cached_property
    def info(self) -> api.ServerInfo:
        """What the server says of itself.

        Raises:
            TemplateError: There is no server, it speaks another version, or fails.
        """
        with self._started() as (_, info):
            return info

    @contextmanager
    def _started(self) -> Iterator[tuple[ProjectClient, api.ServerInfo]]:
        with ProjectClient(self.folder) as client:
            try:
                yield client, client.info()
            except TemplateError as error:
                if error.output:  # a compiler's words, mostly
                    error.message = f"{error.message}\n{first_errors(error.output)}"
                raise

    @property
    def description(self) -> str:
        return self.info.platform_name

    @property
    def options(self) -> tuple[Option, ...]:
        """What can be chosen, of the types that the template says."""
        return tuple(map(_option, self.info.project_options))

    def create(
        self,
        directory: Path,
        models: Sequence[CompiledModel],
        board: str | Board | None,
        options: Mapping[str, str],
        /,
    ) -> Project:
        """Let the template write a project for models.

        Raises:
            BoardError: The template fails, or what it wrote is no project.
        """
        if isinstance(board, Board):
            raise BoardError("a template takes a board by its name", hint="-o board=...")
        if not self.info.is_template:
            raise TemplateError("is a project, no template", where=str(self.folder))
        from microddsp.micro.package.archive import save

        check_model_names(models)
        given = {**options, **({"board": board} if board else {})}
        values = _values(self.info, given, "generate_project")
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="microddsp-") as scratch:
            archive, runtime = Path(scratch, "model.tar"), Path(scratch, "runtime")
            save(models, archive)
            write_runtime(runtime, models)
            with self._started() as (client, _):
                client.generate_project(archive, runtime, directory, values)
        return _generated(directory, models, given)

    def build(self, project: Project, /) -> Path:
        """Let the project build itself.

        Raises:
            BoardError: It fails, or there is no firmware afterwards.
        """
        with self._started() as (client, info):
            client.build(_values(info, project.options, "build"))
        if project.image != project.directory and not project.image.is_file():
            raise TemplateError(f"build left no {project.image.name}", where=str(self.folder))
        return project.image

    def flash(self, project: Project, port: str | None, serial_number: str | None, /) -> None:
        """Let the project write its firmware into the board.

        Raises:
            BoardError: Not built, it fails, or takes no port or serial number.
        """
        _check_built(project)
        with self._started() as (client, info):
            chosen = _with_port(info, project.options, "flash", port, serial_number)
            client.flash(_values(info, chosen, "flash"))

    def reach(
        self, project: Project, port: str | None, serial_number: str | None = None, /
    ) -> list[str]:
        """The project's own transport.

        Raises:
            BoardError: Not built, it takes no port or serial number, or an option has a wrong
                value.
        """
        _check_built(project)
        chosen = _with_port(self.info, project.options, "open_transport", port, serial_number)
        values = _values(self.info, chosen, "open_transport")
        return [TEMPLATE, str(self.folder.resolve()), json.dumps(values)]


def _check_built(project: Project) -> None:
    """A template need not tell of a firmware; where it does, it is there once it was built."""
    if project.image != project.directory:
        check_built(project.image)


def write_runtime(folder: Path, models: Sequence[CompiledModel]) -> None:
    """The C of the RPC server, and `app.c`, the table of the models' functions."""
    shutil.copytree(RUNTIME, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in render("bare", {"app.c": "app.c"}, server_values(models, {})).items():
        (folder / name).write_text(text)


def _generated(
    directory: Path, models: Sequence[CompiledModel], options: Mapping[str, str]
) -> Project:
    """What a template has written, by the word of the project's own server."""
    from microddsp.micro.package.archive import load_models

    info = Template(directory).info
    if info.is_template:
        raise TemplateError("the project calls itself a template", where=str(directory))
    archive = _inside(directory, info.model_library_format_path)
    try:
        there = {name: model.digest for name, model in load_models(archive).items()}
    except ArchiveError as error:
        raise TemplateError(f"the project has no model: {error}", where=str(directory)) from error
    if there != {model.name: model.digest for model in models}:
        raise TemplateError("the project has another model", where=str(archive))
    image = _inside(directory, info.image)
    pieces = {name: tuple(found) for name, found in info.profile.items()}
    signatures = tuple(model.signature for model in models)
    board = _board(info, directory)
    return Project(directory, TEMPLATE, board, image, signatures, pieces, options)


def _inside(directory: Path, text: str) -> Path:
    path = Path(text)
    if path.is_absolute() or ".." in path.parts:
        raise TemplateError(f"names a file outside the project: {text!r}", where=str(directory))
    return directory / path


def _board(info: api.ServerInfo, directory: Path) -> Board | None:
    if info.board is None:
        return None
    fallback = {"description": "by its template", "stack_bytes": 512}
    try:
        return Board.model_validate({**fallback, **info.board, "template": True})
    except ValidationError as error:
        wrong = f"the project's board makes no sense: {wrong_fields(error)}"
        raise TemplateError(wrong, where=str(directory)) from error


def _values(info: api.ServerInfo, options: Mapping[str, str], step: str) -> dict[str, Any]:
    """The options of a step, typed."""
    takes = _taken(info, step)
    return {name: _value(takes[name], options[name]) for name in options if name in takes}


def _with_port(
    info: api.ServerInfo,
    options: Mapping[str, str],
    step: str,
    port: str | None,
    serial_number: str | None,
) -> dict[str, str]:
    given = {"port": port, "serial_number": serial_number}
    chosen = {name: value for name, value in given.items() if value is not None}
    for name in chosen.keys() - _taken(info, step).keys():
        raise OptionError(f"{info.platform_name}: {step} has no option {name!r}")
    return {**options, **chosen}


def _taken(info: api.ServerInfo, step: str) -> dict[str, api.ProjectOption]:
    return {o.name: o for o in info.project_options if step in (*o.required, *o.optional)}


def _option(option: api.ProjectOption) -> Option:
    return Option(
        option.name,
        option.help,
        _text(option.default),
        known=_known(option),
        check=partial(_value, option),
        type=option.type,
        required=tuple(option.required),
        optional=tuple(option.optional),
    )


def _known(option: api.ProjectOption) -> Callable[[], tuple[str, ...]]:
    return lambda: tuple(map(_text, option.choices))


def _text(value: api.Value | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _value(option: api.ProjectOption, text: str) -> api.Value:
    """A text as the option's type.

    Raises:
        BoardError: It is none, or not one of the choices.
    """
    try:
        if option.type == "bool":
            made: api.Value = _TRUTH[text]
        else:
            made = {"str": str, "int": int, "float": float}[option.type](text)
        checked: api.Value = option.check(made)
        return checked
    except (KeyError, ValueError) as error:
        words = {"bool": "yes or no", "int": "a whole number", "float": "a number"}
        raise BoardError(f"option {option.name} is {text!r}, not {words[option.type]}") from error
    except api.ParameterError as error:
        raise BoardError(str(error)) from error
