"""Build tools that are run, and what is shown of them when they fail."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from microddsp.errors import BoardError

_LINES = 12
# Of compilers, linkers, CMake and Python; not the progress of a build that names error.c.
_ERROR = re.compile(
    r"\berror: |CMake Error|undefined reference|will not fit|overflowed by|No board named|Error: "
)


def run_tool(
    command: Sequence[str],
    *,
    cwd: Path,
    what: str,
    extra: Mapping[str, str] | None = None,
) -> str:
    """Run a program to its end; gives what it wrote.

    Raises:
        BoardError: It failed: `what`, with the first lines that say why.
    """
    # A make that called us must not hand its job server to ours.
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**environment, **(extra or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise BoardError(f"{what}:\n{first_errors(done.stdout)}")
    return done.stdout


def first_errors(output: str) -> str:
    """The first line that tells of an error and what follows it; the last lines if none does."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    for i, line in enumerate(lines):
        if _ERROR.search(line):
            return "\n".join(lines[i : i + _LINES])
    return "\n".join(lines[-_LINES:])
