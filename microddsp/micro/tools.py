"""Programs of the system that this package calls."""

from __future__ import annotations

import shutil

from microddsp.errors import BoardError

_PACKAGES = {
    "arm-none-eabi-gcc": "gcc-arm-none-eabi and libnewlib-arm-none-eabi",
    "cc": "gcc",
    "cmake": "cmake",
    "dtc": "device-tree-compiler",
    "make": "make",
    "ninja": "ninja-build",
    "qemu-system-arm": "qemu-system-arm",
    "st-flash": "stlink-tools",
}
_HINTS = {name: f"pip install {name}" for name in ("pyocd", "west")}


def find_tool(name: str, purpose: str) -> str:
    """Path of a program.

    Raises:
        BoardError: It is not on PATH; the hint says how to install it.
    """
    found = shutil.which(name)
    if found is None:
        raise BoardError(
            f"{name} is not on PATH, needed to {purpose}",
            hint=_HINTS.get(name, f"install the Debian package {_PACKAGES.get(name, name)}"),
        )
    return found
