"""The user's own Zephyr: its tree, west, and the toolchain that builds with it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from microddsp.errors import BoardError

TESTED = "3.4"
_INSTALL = "https://docs.zephyrproject.org/latest/develop/getting_started"
# Each of them says which toolchain is wanted, or is meant for one.
_TOOLCHAIN = (
    "ZEPHYR_TOOLCHAIN_VARIANT",
    "ZEPHYR_SDK_INSTALL_DIR",
    "GNUARMEMB_TOOLCHAIN_PATH",
    "CROSS_COMPILE",
)
# Where Zephyr finds an SDK that nothing names (cmake/modules/FindZephyr-sdk.cmake of Zephyr).
_SDK_PLACES = ("/usr", "/usr/local", "/opt", "~", "~/.local", "~/.local/opt", "~/bin")
_SDK_REGISTRY = "~/.cmake/packages/Zephyr-sdk"


def find_zephyr(directory: Path) -> Path:
    """The Zephyr tree: ZEPHYR_BASE, or that of the west workspace around the project or here.

    Raises:
        BoardError: There is none, ZEPHYR_BASE is no Zephyr tree, or west is missing to find one.
    """
    named = os.environ.get("ZEPHYR_BASE")
    if named:
        if not _is_tree(Path(named)):
            raise BoardError(
                "ZEPHYR_BASE names no Zephyr tree: there is no share/zephyr-package in it",
                where=named,
                hint="set ZEPHYR_BASE to the folder `zephyr` of your workspace",
            )
        return Path(named)
    west = find_west()
    if west is None:
        raise BoardError(
            "no Zephyr was found: ZEPHYR_BASE is not set, and west, which finds a workspace, is "
            "not installed",
            hint=f"pip install west, or set ZEPHYR_BASE (tested: Zephyr {TESTED}, {_INSTALL})",
        )
    for place in (directory, Path.cwd()):
        found = _tree_of_workspace(west, place)
        if found:
            return found
    raise BoardError(
        "no Zephyr was found: ZEPHYR_BASE is not set, and this is no west workspace",
        hint=f"install Zephyr (tested: {TESTED}, {_INSTALL}) and set ZEPHYR_BASE",
    )


def find_west() -> list[str] | None:
    """How west is called: the program, or the module of this Python; None if there is none."""
    program = shutil.which("west")
    if program:
        return [program]
    if importlib.util.find_spec("west"):
        return [sys.executable, "-m", "west"]
    return None


def need_west(purpose: str) -> list[str]:
    """As `find_west`.

    Raises:
        BoardError: There is none.
    """
    west = find_west()
    if west is None:
        raise BoardError(f"west is not installed, needed to {purpose}", hint="pip install west")
    return west


def _tree_of_workspace(west: list[str], place: Path) -> Path | None:
    top = _ask(west, place, "topdir")
    if not top:
        return None
    # zephyr.base is written by `west init` and `west update`; before that, and where another
    # repository has the manifest, Zephyr is the project of that name, or lies where it says.
    base = _ask(west, place, "config", "zephyr.base")
    listed = _ask(west, Path(top), "list", "-f", "{abspath}", "zephyr")
    for path in (Path(top) / (base or "zephyr"), Path(listed or top)):
        if _is_tree(path):
            return path
    return None


def _ask(west: list[str], place: Path, *words: str) -> str:
    done = subprocess.run(
        [*west, *words],
        cwd=place.resolve(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def _is_tree(path: Path) -> bool:
    return (path / "share" / "zephyr-package" / "cmake").is_dir()


def toolchain() -> Mapping[str, str]:
    """What to add to the environment: nothing where the user has chosen a toolchain or installed
    the Zephyr SDK; otherwise the system's arm-none-eabi-gcc, if it is there."""
    if any(os.environ.get(name) for name in _TOOLCHAIN) or _has_sdk():
        return {}
    gcc = shutil.which("arm-none-eabi-gcc")
    if gcc is None:
        return {}
    where = Path(gcc).parent.resolve().parent  # /bin is often a link to /usr/bin
    return {"ZEPHYR_TOOLCHAIN_VARIANT": "gnuarmemb", "GNUARMEMB_TOOLCHAIN_PATH": str(where)}


def _has_sdk() -> bool:
    if Path(_SDK_REGISTRY).expanduser().is_dir():
        return True
    return any(any(Path(place).expanduser().glob("zephyr-sdk*")) for place in _SDK_PLACES)
