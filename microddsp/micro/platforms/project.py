"""A project folder: written from a model, read back, built with make."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from microddsp.errors import ArchiveError, BoardError
from microddsp.micro.boards import Board, boards, find_board
from microddsp.micro.platforms.platform import Platform, check_options, find_platform
from microddsp.micro.platforms.qemu.files import project_files
from microddsp.micro.tools import find_tool
from microddsp.signature import Signature

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

MANIFEST = "project.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Project:
    """What a project's manifest says. `image` is the firmware, whether built or not."""

    directory: Path
    board: Board
    image: Path
    signature: Signature


def create_project(
    directory: str | Path,
    model: CompiledModel,
    board: str | Board | None = None,
    options: Mapping[str, str] | None = None,
    *,
    force: bool = False,
) -> Project:
    """Write a bare-metal project for a board; without one, for the first of the model's target.

    Raises:
        BoardError: The folder has files and `force` is False, the board has another processor than
            the model was compiled for, or an option makes no sense.
    """
    where = Path(directory)
    given = check_options(find_platform("qemu"), options or {})
    chosen = _choose_board(model, board or given.get("board"))
    if where.exists() and (not where.is_dir() or (not force and any(where.iterdir()))):
        raise BoardError("is there and not empty", where=str(where), hint="force writes into it")
    stack_bytes = int(given.get("stack", chosen.stack_bytes))
    image = f"{model.name}.elf"
    files = project_files(model, chosen, stack_bytes=stack_bytes, image=image)
    manifest = {
        "format": _FORMAT,
        "platform": "qemu",
        "board": chosen.name,
        "image": image,
        "digest": model.digest,
        "signature": model.signature.to_json(),
    }
    files[MANIFEST] = json.dumps(manifest, indent=2) + "\n"
    try:
        where.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (where / name).write_text(text)
    except OSError as error:
        raise BoardError(f"cannot be written: {error}", where=str(where)) from error
    return Project(where, chosen, where / image, model.signature)


def generate_project(
    model: CompiledModel, directory: Path, platform: Platform, options: Mapping[str, str]
) -> Project:
    """`create_project` as the command line calls it, which has looked into the folder."""
    find_platform(platform.name)
    return create_project(directory, model, None, options, force=True)


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
        signature = Signature.from_json(manifest["signature"])
        return Project(where, find_board(str(manifest["board"])), where / image, signature)
    except OSError as error:
        raise BoardError(
            f"is no project: {error}", where=str(where), hint="microddsp micro create-project"
        ) from error
    except (ValueError, KeyError, TypeError, ArchiveError) as error:
        raise BoardError(f"{MANIFEST} is damaged: {error}", where=str(where)) from error


def build_project(directory: str | Path) -> Path:
    """Run the project's Makefile; gives the firmware's path.

    Raises:
        BoardError: No project, a tool is missing, or the build failed; the message has its words.
    """
    project = read_project(directory)
    make = find_tool("make", "build firmware")
    find_tool("arm-none-eabi-gcc", "build firmware")
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


def _choose_board(model: CompiledModel, board: str | Board | None) -> Board:
    target = model.target.name
    fitting = [known for known in boards() if known.target == target]
    names = ", ".join(known.name for known in fitting)
    if board is None:
        if not fitting:
            raise BoardError(f"no board has the processor of target {target}")
        return fitting[0]
    chosen = find_board(board) if isinstance(board, str) else board
    if chosen.target != target:
        others = f", or use {names}" if names else ""
        raise BoardError(
            f"board {chosen.name} has a {chosen.target}, the model was compiled for {target}",
            hint=f"compile with target={chosen.target!r}{others}",
        )
    return chosen
