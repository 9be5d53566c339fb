"""A project folder: written from models, read back, built, flashed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from microddsp.errors import ArchiveError, BoardError, OptionError, ProjectError
from microddsp.micro.boards import HOST, Board, find_board, list_boards
from microddsp.micro.boards.catalogue import wrong_fields
from microddsp.micro.platforms.catalogue import find_platform
from microddsp.micro.platforms.platform import Platform, Project, check_options
from microddsp.micro.platforms.template import TEMPLATE, Template
from microddsp.signature import Signature

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

MANIFEST = "project.json"
_FORMAT = 2
_DAMAGE = (
    *(ValueError, KeyError, TypeError, AttributeError, RecursionError),  # not what it should be
    *(ArchiveError, BoardError),  # or names what there is not
)


def create_project(
    directory: str | Path,
    model: CompiledModel | Sequence[CompiledModel] | Mapping[str, CompiledModel],
    board: str | Board | None = None,
    options: Mapping[str, str] | None = None,
    *,
    platform: str | Platform | None = None,
    force: bool = False,
) -> Project:
    """Write a project of a platform for a board; without one, for the first of the model's target.

    Without a platform it is that of the board. `board` and the option of that name are the same.

    Raises:
        BoardError: The folder has files and `force` is False, the board has another processor than
            a model was compiled for, two models have one name, or an option makes no sense.
    """
    from microddsp.micro.package.archive import models_of

    where = Path(directory)
    models = models_of(model)
    if not models:
        raise BoardError("a project needs a model")
    given = dict(options or {})
    chosen = board or given.get("board")
    kind = platform or _platform_of(chosen, models[0])
    kind = find_platform(kind) if isinstance(kind, str) else kind
    check_options(kind, given | ({"board": board} if isinstance(board, str) else {}))
    check_folder(where, force)
    _drop_firmware(where)
    with _whole_or_nothing(where):
        project = kind.create(where, models, chosen, given)
        _write_manifest(project, models)
    return project


def check_folder(where: Path, force: bool) -> None:
    """Whether a project may be written into a folder.

    Raises:
        ProjectError: It is a file, or has files and `force` is False.
    """
    if where.exists() and not where.is_dir():
        raise ProjectError("is a file", where=str(where), hint="name a new folder")
    if not force and where.exists() and any(where.iterdir()):
        hint = "--force (force=True) writes into it"
        raise ProjectError("is there and not empty", where=str(where), hint=hint)


@contextmanager
def _whole_or_nothing(where: Path) -> Iterator[None]:
    """A project that fails half written leaves a new folder as it was: absent, or empty."""
    there = where.exists()
    new = not there or not any(where.iterdir())
    try:
        yield
    except BaseException:
        if new and where.is_dir():
            for made in list(where.iterdir()):
                if made.is_dir() and not made.is_symlink():
                    shutil.rmtree(made, ignore_errors=True)
                else:
                    made.unlink(missing_ok=True)
            if not there:
                where.rmdir()
        raise


def _drop_firmware(where: Path) -> None:
    """What an earlier project in the folder built would be taken for the new one's firmware."""
    if not (where / MANIFEST).is_file():
        return
    try:
        image = read_project(where).image
    except BoardError:
        return  # a damaged one is written over
    try:
        if image.is_file():
            image.unlink()
    except OSError as error:
        raise ProjectError(f"cannot be removed: {error}", where=str(image)) from error


def _write_manifest(project: Project, models: Sequence[CompiledModel]) -> None:
    board = project.board
    manifest: dict[str, Any] = {
        "format": _FORMAT,
        "platform": project.platform,
        "board": board.name if board else "",
        "image": relative_image(project),
        "models": [{"digest": m.digest, "signature": m.signature.to_json()} for m in models],
        "profile": {name: list(pieces) for name, pieces in project.pieces.items()},
    }
    if project.options:
        manifest["options"] = dict(project.options)
    if board and (board.template or board.name not in list_boards()):
        manifest["own_board"] = board.model_dump(exclude={"folder"}, exclude_none=True)
    try:
        (project.directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    except OSError as error:
        raise ProjectError(f"cannot be written: {error}", where=str(project.directory)) from error


def relative_image(project: Project) -> str:
    """Where the firmware is in the project; "" if there is none."""
    path = project.image.relative_to(project.directory).as_posix()
    return "" if path == "." else path


def read_project(directory: str | Path) -> Project:
    """The project in a folder.

    Raises:
        ProjectError: There is none, or its manifest cannot be read.
    """
    where = Path(directory)
    try:
        manifest = json.loads((where / MANIFEST).read_text())
        if manifest["format"] != _FORMAT:
            raise ProjectError(f"{MANIFEST} has format {manifest['format']}", where=str(where))
        image = Path(str(manifest["image"]))
        if image.is_absolute() or ".." in image.parts:
            raise ProjectError(f"{MANIFEST} names an image outside the folder", where=str(where))
        if not manifest["models"]:
            raise ProjectError(f"{MANIFEST} is damaged: it names no model", where=str(where))
        return Project(
            where,
            _known_platform(str(manifest["platform"])),
            _board_of(manifest),
            where / image,
            tuple(Signature.from_json(entry["signature"]) for entry in manifest["models"]),
            {str(name): tuple(map(str, found)) for name, found in manifest["profile"].items()},
            {str(name): str(value) for name, value in manifest.get("options", {}).items()},
        )
    except FileNotFoundError as error:
        raise ProjectError(
            f"is no project: it has no {MANIFEST}",
            where=str(where),
            hint="microddsp micro create makes one",
        ) from error
    except OSError as error:
        raise ProjectError(f"{MANIFEST} cannot be read: {error}", where=str(where)) from error
    except ProjectError:
        raise
    except ValidationError as error:
        words = f"{MANIFEST} is damaged: own_board: {wrong_fields(error)}"
        raise ProjectError(words, where=str(where)) from error
    except _DAMAGE as error:
        raise ProjectError(f"{MANIFEST} is damaged: {error}", where=str(where)) from error


def platform_of(project: Project) -> Platform:
    """What builds, flashes and reaches a project."""
    if project.platform == TEMPLATE:
        return Template(project.directory)
    return find_platform(project.platform)


def with_options(project: Project, options: Mapping[str, str] | None, step: str) -> Project:
    """The project with more options for a step, or with others. A project's own server checks
    those that it was created with again.

    Raises:
        OptionError: An option is unknown, not for this step, missing, or has a wrong value.
    """
    if not options:
        return project
    platform = platform_of(project)
    given = dict(options)
    check_options(platform, {**project.options, **given}, step)
    wrong = [o.name for o in platform.options if o.name in given and step not in o.steps]
    if wrong:
        raise OptionError(f"option {wrong[0]!r} has no meaning for {step}")
    return replace(project, options={**project.options, **given})


def build_project(directory: str | Path, options: Mapping[str, str] | None = None) -> Path:
    """Run the project's build; gives the firmware's path. `options` are those that a template's
    project takes for this, beside those that it was created with.

    Raises:
        BoardError: No project, a tool is missing, or the build failed; the message has its words.
    """
    project = with_options(read_project(directory), options, "build")
    return platform_of(project).build(project)


def flash_project(
    directory: str | Path,
    *,
    port: str | None = None,
    serial_number: str | None = None,
    options: Mapping[str, str] | None = None,
) -> None:
    """Write a built project into the real board that it is for.

    Raises:
        BoardError: No project, not built, no real board, or the tool that flashes failed; the
            message has its words.
    """
    project = with_options(read_project(directory), options, "flash")
    platform_of(project).flash(project, port, serial_number)


def _known_platform(name: str) -> str:
    return name if name == TEMPLATE else find_platform(name).name


def _platform_of(board: str | Board | None, model: CompiledModel) -> str:
    if board is None:
        return HOST if model.target.name == HOST else "qemu"
    return (find_board(board) if isinstance(board, str) else board).platform


def _board_of(manifest: Mapping[str, Any]) -> Board | None:
    """A board of ours, or the user's own, which the manifest describes."""
    own = manifest.get("own_board")
    if own:
        return Board.model_validate(own)
    name = str(manifest["board"])
    return find_board(name) if name else None
