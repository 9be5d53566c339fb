"""Zephyr's own build, and its failures in words that say what to do."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from microddsp.errors import BoardError, nearest
from microddsp.micro.platforms.platform import Project
from microddsp.micro.platforms.processes import run_tool
from microddsp.micro.platforms.zephyr.installation import (
    find_west,
    find_zephyr,
    need_west,
    toolchain,
)
from microddsp.micro.rpc.start import check_built
from microddsp.micro.tools import find_tool

BUILD = "build"
IMAGE = f"{BUILD}/zephyr/zephyr.elf"


def _name(project: Project) -> str:
    assert project.board and project.board.zephyr
    return project.board.zephyr


def build(project: Project) -> Path:
    """Configure and build; gives the image.

    Raises:
        BoardError: Zephyr or a tool is missing, the board is unknown, or the build fails.
    """
    base = find_zephyr(project.directory)
    cmake = find_tool("cmake", "build Zephyr applications")
    ninja = find_tool("ninja", "build Zephyr applications")
    find_tool("dtc", "build Zephyr applications")
    where = project.directory.resolve()
    if " " in str(where):
        raise BoardError("Zephyr builds in no folder with a blank in its path", where=str(where))
    environment = {"ZEPHYR_BASE": str(base.absolute()), **toolchain()}
    forget_other_board(where / BUILD, _name(project))
    configure = [cmake, "-GNinja", "-S", str(where), "-B", str(where / BUILD)]
    if find_west() == [sys.executable, "-m", "west"]:
        configure.append(f"-DWEST_PYTHON={sys.executable}")  # as west does itself
    try:
        run_tool(
            [*configure, f"-DBOARD={_name(project)}"],
            cwd=where,
            what="Zephyr's configuration fails",
            extra=environment,
        )
        run_tool(
            [ninja, "-C", str(where / BUILD)],
            cwd=where,
            what="the firmware does not build",
            extra=environment,
        )
    except BoardError as error:
        raise explain(error, base, project) from error
    return project.image


def forget_other_board(folder: Path, board: str) -> None:
    """Remove a build for another board: CMake would go on with that one, whatever it is told.

    Raises:
        BoardError: It cannot be removed.
    """
    try:
        cache = (folder / "CMakeCache.txt").read_text(errors="replace")
    except FileNotFoundError:
        return
    found = re.search(r"^CACHED_BOARD:\w+=(.*)$", cache, re.MULTILINE)
    if found is None or found[1] == board:
        return
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise BoardError(f"cannot be removed: {error}", where=str(folder)) from error


def flash(project: Project, serial_number: str | None = None) -> None:
    """Write the image into the attached board with `west flash`; the serial number says which of
    several, where the board's runner can choose.

    Raises:
        BoardError: Not built, west is missing, or it fails.
    """
    check_built(project.image)
    base = find_zephyr(project.directory)
    where = str(project.image.resolve().parents[1])
    which = ["--dev-id", serial_number] if serial_number else []
    try:
        run_tool(
            [*need_west("flash a board"), "flash", "--build-dir", where, *which],
            cwd=base,
            what="west flash fails",
            extra={"ZEPHYR_BASE": str(base.absolute())},
        )
    except BoardError as error:
        raise explain(error, base, project) from error


# What Zephyr's build says -> what to do.
_HINTS: Sequence[tuple[str, str]] = (
    (
        r"ZEPHYR_TOOLCHAIN_VARIANT|GNUARMEMB_TOOLCHAIN_PATH|Zephyr-sdk|Unable to find.*toolchain",
        "install the Zephyr SDK, or use the system's compiler: "
        "ZEPHYR_TOOLCHAIN_VARIANT=gnuarmemb GNUARMEMB_TOOLCHAIN_PATH=/usr",
    ),
    (
        r"No module named|ModuleNotFoundError",
        "Zephyr's scripts need packages: pip install -r $ZEPHYR_BASE/scripts/requirements.txt",
    ),
    (
        r"cmsis_core\.h|core_cm\w+\.h|cmsis.*No such file",
        "Zephyr finds no CMSIS: run `west update`, or name modules/hal/cmsis in ZEPHYR_MODULES",
    ),
    (
        r"floating-point unit, and this|FPU \(=y\)|FPU \(defined",
        "the board has no floating-point unit: compile the model with --target cortex-m3",
    ),
    (
        r"unknown command \"flash\"|no west workspace",
        "west flashes from a workspace (`west init -l`), or a board's file has a command `flash`",
    ),
    (r"region `?\w+'? overflowed", "a smaller -o heap, or a board with more memory"),
    (
        r"source directory.*does not match",
        "the build folder is another project's: remove it",
    ),
)


def explain(error: BoardError, base: Path, project: Project) -> BoardError:
    """The same error with a hint, where its words are known."""
    if "No board named" in error.message:
        boards = known_boards(base)
        return BoardError(
            f"Zephyr knows no board {_name(project)!r}",
            where=str(base),
            hint=nearest(_name(project), boards) if boards else "see `west boards`",
        )
    for pattern, hint in _HINTS:
        if re.search(pattern, error.message):
            return BoardError(error.message, hint=hint)
    return error


def known_boards(base: Path) -> tuple[str, ...]:
    """Names of the boards in a Zephyr tree, in the layouts before and after Zephyr 3.7."""
    old = {path.stem.removesuffix("_defconfig") for path in base.glob("boards/*/*/*_defconfig")}
    new = {path.parent.name for path in base.glob("boards/*/*/board.yml")}
    return tuple(sorted(old | new))
