"""Where in the user's own code something happened."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import torch
from torch import fx

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\w+)')
_PACKAGE = Path(__file__).resolve().parents[1]


def place(node: fx.Node) -> str:
    """Module path and line of the user's code that a node comes from."""
    parts = []
    stack = node.meta.get("nn_module_stack")
    if stack:
        path = list(stack.values())[-1][0]
        if path:
            parts.append(path.removeprefix("inner."))
    line = user_line(node.meta.get("stack_trace") or "")
    if line:
        parts.append(line)
    return ", ".join(parts) or node.name


def user_line(trace: str) -> str:
    """`file:line` of the innermost frame that is neither ours nor torch's."""
    frames = [(f, n) for f, n, _ in _FRAME.findall(trace) if _is_users(f)]
    return f"{frames[-1][0]}:{frames[-1][1]}" if frames else ""


def failure(module: torch.nn.Module, error: BaseException) -> str:
    """Module path and line where an exception was raised inside a module."""
    paths = {id(inner): path for path, inner in module.named_modules()}
    path, line = "", ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, torch.nn.Module) and id(owner) in paths:
            path = paths[id(owner)] or type(owner).__name__
        if _is_users(frame.f_code.co_filename):
            line = f"{frame.f_code.co_filename}:{number}"
    return ", ".join(part for part in (path, line) if part)


def _is_users(file: str) -> bool:
    parts = Path(file).parts
    return not (
        "site-packages" in parts or file.startswith("<") or Path(file).is_relative_to(_PACKAGE)
    )
