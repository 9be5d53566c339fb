"""Bare metal for emulated and real boards, and a device that is a process; with a Makefile."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from microddsp.errors import BoardError, OptionError, nearest
from microddsp.micro.boards import HOST as HOST_BOARD
from microddsp.micro.boards import Board, boards, find_board
from microddsp.micro.platforms.bare.files import project_files
from microddsp.micro.platforms.flash import write_flash
from microddsp.micro.platforms.platform import (
    PROFILE,
    BuiltIn,
    Option,
    Project,
    ProjectFiles,
    byte_count,
)
from microddsp.micro.platforms.processes import run_tool
from microddsp.micro.targets import find_target
from microddsp.micro.tools import find_tool

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel


def _generate(
    platform: str,
    models: Sequence[CompiledModel],
    board: str | Board | None,
    options: Mapping[str, str],
) -> ProjectFiles:
    chosen = _choose_board(platform, models[0].target.name, board)
    for model in models:
        _check_target(chosen, model)
    stack_bytes = int(options.get("stack", chosen.stack_bytes))
    given = "stack" in options and chosen.flash and chosen.ram
    if given and chosen.ram and stack_bytes >= chosen.ram.kbytes * 1024:
        raise OptionError(
            f"a stack of {stack_bytes} bytes is too large: "
            f"{chosen.name} has {chosen.ram.kbytes * 1024} bytes of RAM"
        )
    return project_files(
        models,
        chosen,
        stack_bytes=stack_bytes,
        profile=options.get("profile") == "yes",
    )


def _choose_board(platform: str, target: str, board: str | Board | None) -> Board:
    """The board given; without one, the first of the platform with the target's processor."""
    known = {b.name: b for b in boards() if b.platform == platform}
    if board is None:
        fitting = [b for b in known.values() if b.target in (target, HOST_BOARD)]
        if not known:
            raise OptionError(f"platform {platform} needs a board", hint="-o board=mine.toml")
        if not fitting:
            raise BoardError(f"no board has the processor of target {target}")
        return fitting[0]
    chosen = find_board(board) if isinstance(board, str) else board
    if chosen.platform != platform:
        raise BoardError(
            f"board {chosen.name} is not of platform {platform}", hint=nearest(chosen.name, known)
        )
    return chosen


def _check_target(board: Board, model: CompiledModel) -> None:
    target = model.target.name
    if board.target not in (target, HOST_BOARD):  # this computer runs any model's C
        fitting = ", ".join(known.name for known in boards() if known.target == target)
        raise BoardError(
            f"board {board.name} has a {board.target}, the model was compiled for {target}",
            hint=f"compile with target={board.target!r}" + (f", or use {fitting}" * bool(fitting)),
        )
    if model.objects and board.target != target:
        raise BoardError(
            f"{model.name} has object code for {target}, which {board.name} cannot run",
            hint="emit C",
        )


def _build(project: Project) -> Path:
    assert project.board
    make = find_tool("make", "build firmware")
    find_tool(find_target(project.board.target).compiler, "build firmware")
    jobs = max(os.cpu_count() or 1, 2)
    run_tool(
        [make, "--no-print-directory", f"-j{jobs}", "-s", project.image.name],
        cwd=project.directory,
        what="the firmware does not build",
    )
    return project.image


def _names(platform: str) -> tuple[str, ...]:
    return tuple(board.name for board in boards() if board.platform == platform)


def _platform(name: str, description: str, default_board: str) -> BuiltIn:
    options = (
        Option(
            "board",
            "one of these, or your file: mine.toml",
            default_board,
            partial(_names, name),
            closed=False,
            check=find_board,
        ),
        Option("stack", "bytes of stack", "(the board's)", check=byte_count("stack", 512)),
        PROFILE,
    )
    return BuiltIn(name, description, options, partial(_generate, name), _build, write_flash)


QEMU = _platform(
    "qemu",
    "bare metal for QEMU's boards, with a Makefile",
    "(the first of the model's target)",
)
HOST = _platform("host", "a process on this computer that speaks as a device does", HOST_BOARD)
SERIAL = _platform("serial", "bare metal for a board of yours behind a serial port", "")
