"""Compiling C files with a target's own compiler and flags."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from microddsp.errors import BoardError
from microddsp.micro.targets import Target

_PACKAGES = {"arm-none-eabi-gcc": "gcc-arm-none-eabi and libnewlib-arm-none-eabi", "cc": "gcc"}


def find_compiler(target: Target) -> str:
    """Path of the target's compiler.

    Raises:
        BoardError: It is not on PATH; the hint names the Debian package.
    """
    found = shutil.which(target.compiler)
    if found is None:
        package = _PACKAGES.get(target.compiler, target.compiler)
        raise BoardError(
            f"{target.compiler} is not on PATH, needed for target {target.name}",
            hint=f"install the Debian package {package}",
        )
    return found


def compile_c(
    target: Target,
    files: Sequence[Path],
    output: Path,
    options: Sequence[str] = (),
    libraries: Sequence[str] = (),
) -> Path:
    """Run the compiler; returns `output`.

    Raises:
        BoardError: No compiler, or it refused the files; the message carries its words.
    """
    command = [find_compiler(target), *target.c_flags, *options]
    command += [*map(str, files), "-o", str(output), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, cwd=output.parent, check=False)
    if done.returncode != 0:
        raise BoardError(f"{target.compiler} failed:\n{done.stderr.strip()}")
    return output
