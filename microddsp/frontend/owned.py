"""What a module of the user's holds: put back after tracing, and watched for hidden state."""

from __future__ import annotations

from collections import deque
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from microddsp.errors import CompileError

_OF_EVERY_MODULE = frozenset(vars(torch.nn.Module()))
_HINT = (
    "what a stream carries from block to block belongs in a registered buffer, "
    "what is computed once in __init__"
)


class Owned:
    """Buffers and plain attributes of all modules inside, as they are now."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._modules = dict(module.named_modules())
        self._buffers = {path: dict(inner._buffers) for path, inner in self._modules.items()}
        self._values = {b: b.detach().clone() for b in module.buffers()}
        self._plain = {path: _plain(inner) for path, inner in self._modules.items()}
        self._marks = self._seen()

    def check(self) -> None:
        """Refuse state in plain attributes: a trace holds what they were, for ever.

        Raises:
            CompileError: Names the attribute, or a buffer that becomes another kind of tensor.
        """
        for (path, name), mark in self._seen().items():
            inner = self._modules[path]
            if self._marks.get((path, name)) == mark:
                continue
            if isinstance(getattr(type(inner), name, None), cached_property):
                continue
            raise CompileError(
                f"forward changes the attribute {name!r}, which the compiled model could not",
                where=path or type(inner).__name__,
                hint=_HINT,
            )
        for path, buffers in self._buffers.items():
            for name, before in buffers.items():
                after = self._modules[path]._buffers.get(name)
                if _kind(before) != _kind(after):
                    raise CompileError(
                        f"the buffer {name!r} starts as {_kind(before)} and becomes {_kind(after)}",
                        where=path or type(self._modules[path]).__name__,
                        hint="register it with a tensor of the shape and type that it keeps",
                    )

    def restore(self) -> None:
        """Values into buffers, and buffers and attributes into their places."""
        for path, inner in self._modules.items():
            inner._buffers.update(self._buffers[path])
            for name in _plain(inner).keys() - self._plain[path].keys():
                delattr(inner, name)
            inner.__dict__.update(self._plain[path])
        with torch.no_grad():
            for buffer, value in self._values.items():
                buffer.copy_(value)

    def _seen(self) -> dict[tuple[str, str], Any]:
        return {
            (path, name): _mark(value)
            for path, inner in self._modules.items()
            for name, value in _plain(inner).items()
        }


def _plain(module: torch.nn.Module) -> dict[str, Any]:
    return {k: v for k, v in vars(module).items() if k not in _OF_EVERY_MODULE}


def _mark(value: Any) -> Any:
    """Equal as long as the value is: containers by their items, tensors by their version."""
    if isinstance(value, Tensor):
        return id(value), value._version
    if isinstance(value, dict):
        return [(key, _mark(item)) for key, item in value.items()]
    if isinstance(value, list | tuple | deque):
        return [_mark(item) for item in value]
    if isinstance(value, bool | int | float | str):
        return type(value), value
    return id(value)


def _kind(buffer: Tensor | None) -> str:
    if buffer is None:
        return "None"
    return f"{str(buffer.dtype).removeprefix('torch.')} of shape {tuple(buffer.shape)}"
