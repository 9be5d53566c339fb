"""A project folder: written from a model, read back, built with make."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microddsp.errors import ArchiveError, BoardError, nearest
from microddsp.micro.boards import HOST, Board, boards, find_board, list_boards
from microddsp.micro.platforms.files import project_files
from microddsp.micro.platforms.platform import Platform, check_options, find_platform
from microddsp.micro.targets import find_target
from microddsp.micro.tools import find_tool
from microddsp.signature import Signature

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

MANIFEST = "project.json"
_FORMAT = 2


@dataclass(frozen=True, slots=True)
class Project:
    """What a project's manifest says. `image` is the firmware, whether built or not; `pieces` are
    what a profile tells of a model, by its name."""

    directory: Path
    board: Board
    image: Path
    signatures: tuple[Signature, ...]
    pieces: dict[str, tuple[str, ...]]


def create_project(
    directory: str | Path,
    model: CompiledModel | Sequence[CompiledModel],
    board: str | Board | None = None,
    options: Mapping[str, str] | None = None,
    *,
    force: bool = False,
) -> Project:
    """Write a project for a board; without one, for the first of the model's target.

    Raises:
        BoardError: The folder has files and `force` is False, the board has another processor than
            a model was compiled for, two models have one name, or an option makes no sense.
    """
    where = Path(directory)
    models = list(model) if isinstance(model, Sequence) else [model]
    if not models:
        raise BoardError("a project needs a model")
    given = check_options(find_platform("qemu"), options or {})
    chosen = _choose_board(models[0], board or given.get("board"))
    for other in models[1:]:
        _choose_board(other, chosen)
    if where.exists() and (not where.is_dir() or (not force and any(where.iterdir()))):
        raise BoardError("is there and not empty", where=str(where), hint="force writes into it")
    image = f"{models[0].name}.elf"
    made = project_files(
        models,
        chosen,
        stack_bytes=int(given.get("stack", chosen.stack_bytes)),
        image=image,
        profile=given.get("profile") == "yes",
    )
    manifest: dict[str, Any] = {
        "format": _FORMAT,
        "platform": chosen.platform,
        "board": chosen.name,
        "image": image,
        "models": [{"digest": m.digest, "signature": m.signature.to_json()} for m in models],
        "profile": {name: list(pieces) for name, pieces in made.pieces.items()},
    }
    if chosen.name not in list_boards():
        manifest["own_board"] = chosen.model_dump(exclude={"folder"}, exclude_none=True)
    files = made.texts | {MANIFEST: json.dumps(manifest, indent=2) + "\n"}
    try:
        where.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (where / name).write_text(text)
        for name, content in [item for m in models for item in m.objects.items()]:
            (where / name).write_bytes(content)
    except OSError as error:
        raise BoardError(f"cannot be written: {error}", where=str(where)) from error
    signatures = tuple(m.signature for m in models)
    return Project(where, chosen, where / image, signatures, made.pieces)


def generate_project(
    model: CompiledModel, directory: Path, platform: Platform, options: Mapping[str, str]
) -> Project:
    """`create_project` as the command line calls it, which has looked into the folder.

    Raises:
        BoardError: The board is of another platform, or none is given where there is no default.
    """
    known = {b.name: b for b in boards() if b.platform == platform.name}
    name = options.get("board")
    if name is None and platform.name == HOST:
        name = HOST
    elif name is None and not known:
        raise BoardError(f"platform {platform.name} needs a board", hint="-o board=mine.toml")
    if name is not None and find_board(name).platform != platform.name:
        raise BoardError(
            f"board {name} is not of platform {platform.name}", hint=nearest(name, known)
        )
    return create_project(directory, model, name, options, force=True)


def read_project(directory: str | Path) -> Project:
    """The project in a folder.

    Raises:
        BoardError: There is none, or its manifest cannot be read.
    """
    where = Path(directory)
    try:
        manifest = json.loads((where / MANIFEST).read_text())
        if manifest["format"] != _FORMAT:
            raise BoardError(f"{MANIFEST} has format {manifest['format']}", where=str(where))
        image = str(manifest["image"])
        if Path(image).name != image:
            raise BoardError(f"{MANIFEST} names an image outside the folder", where=str(where))
        return Project(
            where,
            _board_of(manifest),
            where / image,
            tuple(Signature.from_json(entry["signature"]) for entry in manifest["models"]),
            {str(name): tuple(map(str, found)) for name, found in manifest["profile"].items()},
        )
    except OSError as error:
        raise BoardError(
            f"is no project: {error}", where=str(where), hint="microddsp micro create-project"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, ArchiveError) as error:
        raise BoardError(f"{MANIFEST} is damaged: {error}", where=str(where)) from error


def build_project(directory: str | Path) -> Path:
    """Run the project's Makefile; gives the firmware's path.

    Raises:
        BoardError: No project, a tool is missing, or the build failed; the message has its words.
    """
    project = read_project(directory)
    make = find_tool("make", "build firmware")
    find_tool(find_target(project.board.target).compiler, "build firmware")
    jobs = max(os.cpu_count() or 1, 2)
    # A make that called us must not hand its job server to ours.
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(
        [make, "--no-print-directory", f"-j{jobs}", "-s", project.image.name],
        cwd=project.directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BoardError(f"the firmware does not build:\n{done.stderr.strip()}")
    return project.image


def _board_of(manifest: Mapping[str, Any]) -> Board:
    """A board of ours, or the user's own, which the manifest describes."""
    own = manifest.get("own_board")
    return Board.model_validate(own) if own else find_board(str(manifest["board"]))


def _choose_board(model: CompiledModel, board: str | Board | None) -> Board:
    target = model.target.name
    fitting = [known for known in boards() if known.target == target]
    if board is None:
        if not fitting:
            raise BoardError(f"no board has the processor of target {target}")
        return fitting[0]
    chosen = find_board(board) if isinstance(board, str) else board
    if chosen.target not in (target, HOST):  # this computer runs any model's C
        others = f", or use {', '.join(known.name for known in fitting)}" if fitting else ""
        raise BoardError(
            f"board {chosen.name} has a {chosen.target}, the model was compiled for {target}",
            hint=f"compile with target={chosen.target!r}{others}",
        )
    if model.objects and chosen.target != target:
        raise BoardError(
            f"{model.name} has object code for {target}, which {chosen.name} cannot run",
            hint="emit C",
        )
    return chosen
