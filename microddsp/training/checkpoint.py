"""Training that goes on where it stopped: one file, read without running any code in it."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from microddsp.errors import MicroddspError, ParameterError

FORMAT = 1
_KEYS = (
    "model",
    "parameters",
    "optimizer",
    "optimizer_class",
    "schedule",
    "draws",
    "random",
    "names",
    "rows",
)
_PLAIN = (bool, int, float, str, tuple)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where training is kept, after every so many steps and at the end.

    With `resume` it goes on from the file if there is one.
    """

    path: str | Path
    every: int = 100
    resume: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ParameterError(f"every must be at least 1, got {self.every}", where="Checkpoint")


def save_checkpoint(path: str | Path, module: torch.nn.Module, state: Mapping[str, Any]) -> None:
    """Write `state`, with the module's `parameters` in it, and what module it is; whole or not at
    all: an older file stays until the new one is complete."""
    target = Path(path)
    part = target.with_name(f".{target.name}.part")
    content = {
        "format": FORMAT,
        "model": _describe(module),
        **state,
    }
    try:
        try:
            with part.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise MicroddspError(f"cannot be written: {error.strerror}", where=str(path)) from error


def load_checkpoint(path: str | Path, module: torch.nn.Module) -> dict[str, Any]:
    """Read a checkpoint, put its parameters into `module` and return the rest.

    Raises:
        MicroddspError: No checkpoint, or that of another model; says what differs. The module is
            then unchanged.
    """
    content = read_checkpoint(path, module)
    module.load_state_dict(content["parameters"])
    return content


def read_checkpoint(path: str | Path, module: torch.nn.Module) -> dict[str, Any]:
    """What is in a checkpoint of `module`, which stays as it is.

    Raises:
        MicroddspError: No checkpoint, or that of another model; says what differs.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        what = "is damaged" if error.errno == errno.EINVAL else f"cannot be read: {error.strerror}"
        raise MicroddspError(what, where=str(path)) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise MicroddspError(
            "is no checkpoint that can be read safely",
            where=str(path),
            hint="checkpoints hold tensors and plain data only",
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise MicroddspError("is no checkpoint of this version", where=str(path))
    missing = [key for key in _KEYS if key not in content]
    if missing:
        raise MicroddspError(f"is damaged: {', '.join(missing)} missing", where=str(path))
    difference = _difference(content["model"], _describe(module))
    if difference:
        raise MicroddspError(
            f"is the checkpoint of another model: {difference}",
            where=str(path),
            hint="resume with the model that was trained, or start anew without resume",
        )
    return content


def _describe(module: torch.nn.Module) -> dict[str, str]:
    """Every part with its class, plain settings and parameters: what must be alike."""
    lines: dict[str, str] = {}
    for path, inner in module.named_modules():
        settings = {
            name: value
            for name, value in sorted(vars(inner).items())
            if name[0] != "_" and name != "training" and isinstance(value, _PLAIN)
        }
        kind = f"{type(inner).__module__}.{type(inner).__qualname__}"
        lines[path or "the model"] = f"{kind} {settings}"
    for name, value in module.state_dict().items():
        lines[name] = f"{value.dtype} {tuple(value.shape)}"
    return lines


def _difference(saved: Mapping[str, str], now: Mapping[str, str]) -> str:
    for name in sorted({*saved, *now}):
        if saved.get(name) != now.get(name):
            was, here = saved.get(name, "not there"), now.get(name, "not there")
            return f"{name} was {was}, is {here}"
    return ""
