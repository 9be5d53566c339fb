"""Zephyr's own build, and its failures in words that say what to do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from microddsp.errors import BoardError, nearest
from microddsp.micro.platforms.platform import Project
from microddsp.micro.platforms.processes import run_tool
from microddsp.micro.tools import find_tool

BUILD = "build"
IMAGE = f"{BUILD}/zephyr/zephyr.elf"
TESTED = "3.4"
_INSTALL = "https://docs.zephyrproject.org/latest/develop/getting_started"


def find_zephyr(directory: Path) -> Path:
    """The Zephyr tree: ZEPHYR_BASE, or that of the west workspace around the project or here.

    Raises:
        BoardError: There is none, or ZEPHYR_BASE is no Zephyr tree.
    """
    named = os.environ.get("ZEPHYR_BASE")
    if named:
        base = Path(named)
        if not (base / "share" / "zephyr-package" / "cmake").is_dir():
            raise BoardError(
                "ZEPHYR_BASE names no Zephyr tree: there is no share/zephyr-package in it",
                where=named,
                hint="set ZEPHYR_BASE to the folder `zephyr` of your workspace",
            )
        return base
    for place in (directory, Path.cwd()):
        found = _zephyr_of_west(place)
        if found:
            return found
    raise BoardError(
        "no Zephyr was found: ZEPHYR_BASE is not set, and this is no west workspace",
        hint=f"install Zephyr (tested: {TESTED}, {_INSTALL}) and set ZEPHYR_BASE",
    )


def _zephyr_of_west(place: Path) -> Path | None:
    west = shutil.which("west")
    if west is None:
        return None
    done = subprocess.run(
        [west, "list", "-f", "{abspath}", "zephyr"],
        cwd=place.resolve(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    path = Path(done.stdout.strip() or "/nonexistent")
    return path if done.returncode == 0 and path.is_dir() else None


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
    environment = {"ZEPHYR_BASE": str(base.resolve())}
    configure = [cmake, "-GNinja", "-S", str(where), "-B", str(where / BUILD)]
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


def flash(project: Project) -> None:
    """Write the image into the attached board with `west flash`.

    Raises:
        BoardError: Not built, west is missing, or it fails.
    """
    if not project.image.is_file():
        raise BoardError("there is no firmware", hint="build the project first")
    base = find_zephyr(project.directory)
    run_tool(
        [find_tool("west", "flash a board"), "flash", "--build-dir", str(project.image.parents[1])],
        cwd=base,
        what="west flash fails",
        extra={"ZEPHYR_BASE": str(base.resolve())},
    )


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
