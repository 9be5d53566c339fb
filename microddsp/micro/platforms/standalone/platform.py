"""The model for somebody's own firmware, in the layouts that build systems take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from microddsp.errors import BoardError, nearest
from microddsp.micro.boards import Board, boards, find_board
from microddsp.micro.platforms.platform import BuiltIn, Option, Project, ProjectFiles
from microddsp.micro.platforms.processes import run_tool
from microddsp.micro.platforms.standalone.files import LAYOUTS, project_files
from microddsp.micro.tools import find_tool

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel


def _check_layouts(text: str) -> object:
    for name in text.split(","):
        if name not in LAYOUTS:
            raise BoardError(f"unknown layout {name!r}", hint=nearest(name, LAYOUTS))
    return text


def _generate(
    models: Sequence[CompiledModel], chosen: str | Board | None, options: Mapping[str, str]
) -> ProjectFiles:
    if len(models) > 1:
        raise BoardError("a standalone project has one model", hint="create one for each")
    model = models[0]
    board = _board(model, chosen)
    asked = options.get("layouts")
    layouts = tuple(asked.split(",")) if asked else LAYOUTS
    if board is None and "cmsis" in layouts:
        if asked or chosen is not None:
            raise BoardError(
                f"the CMSIS example has no board for target {model.target.name}",
                hint="compile for a Cortex-M, or leave cmsis out of -o layouts",
            )
        layouts = tuple(name for name in layouts if name != "cmsis")
    texts = project_files(model, layouts, board)
    shown = board if "cmsis" in layouts else None
    return ProjectFiles(shown, _image(layouts, model.name), texts)


def _board(model: CompiledModel, chosen: str | Board | None) -> Board | None:
    """The emulated board of the CMSIS example."""
    if chosen is None:
        target = model.target.name
        return next((b for b in boards() if b.platform == "qemu" and b.target == target), None)
    board = find_board(chosen) if isinstance(chosen, str) else chosen
    if board.platform != "qemu":
        raise BoardError(f"{board.name} is not emulated", hint=nearest(board.name, _known_boards()))
    if board.target != model.target.name:
        raise BoardError(
            f"board {board.name} has a {board.target}, the model was compiled for "
            f"{model.target.name}",
            hint=f"compile with target={board.target!r}",
        )
    return board


def _image(layouts: tuple[str, ...], name: str) -> str:
    """What `build` makes: the CMSIS example, else the example for this computer."""
    if "cmsis" in layouts:
        return f"cmsis/{name}.elf"
    if "make" in layouts:
        return f"{name}_example"
    return f"build/{name}_example" if "cmake" in layouts else ""


def _build(project: Project) -> Path:
    where = project.image.parent
    if project.image == project.directory:
        raise BoardError("these layouts are built by Arduino's or Zephyr's own tools")
    if where.name == "build":
        cmake = find_tool("cmake", "build the example")
        run_tool([cmake, "-B", "build"], cwd=project.directory, what="CMake fails")
        run_tool(
            [cmake, "--build", "build"], cwd=project.directory, what="the example does not build"
        )
        return project.image
    if where.name == "cmsis":
        find_tool("arm-none-eabi-gcc", "build the CMSIS example")
    make = find_tool("make", "build the example")
    run_tool([make, "-s", "--no-print-directory"], cwd=where, what="the example does not build")
    return project.image


def _flash(_project: Project, _port: str | None, _serial_number: str | None) -> None:
    raise BoardError("a standalone project is flashed by your own firmware's tools")


def _known_boards() -> tuple[str, ...]:
    return tuple(board.name for board in boards() if board.platform == "qemu")


STANDALONE = BuiltIn(
    "standalone",
    "the model's two files, a queue of samples and build files for your own firmware",
    (
        Option(
            "layouts",
            "which build files, separated by commas",
            ",".join(LAYOUTS),
            lambda: LAYOUTS,
            closed=False,
            check=_check_layouts,
        ),
        Option(
            "board",
            "QEMU board of the CMSIS example",
            "(the first of the model's target)",
            _known_boards,
        ),
    ),
    generate=_generate,
    build=_build,
    flash=_flash,
    serves=False,
)
