"""What a module returns, and the names its inputs and outputs get in C."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from microddsp.errors import CompileError, nearest
from microddsp.micro.package.names import is_c_name
from microddsp.signature import OutputStructure


class Tapped(torch.nn.Module):
    """A module that also returns what some of its inner modules give."""

    def __init__(self, module: torch.nn.Module, taps: Sequence[str]) -> None:
        super().__init__()
        self.inner = module
        known = {path for path, _ in module.named_modules() if path}
        for tap in taps:
            if tap not in known:
                raise CompileError(f"there is no module {tap!r} to tap", hint=nearest(tap, known))
        self._taps = list(taps)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        seen: dict[str, Any] = {}

        def keep(name: str) -> Any:
            return lambda _module, _inputs, output: seen.__setitem__(name, output)

        hooks = [
            self.inner.get_submodule(tap).register_forward_hook(keep(tap)) for tap in self._taps
        ]
        try:
            result = self.inner(*inputs)
        finally:
            for hook in hooks:
                hook.remove()
        structure = structure_of(result)
        values = _flat(result)
        answer = dict(zip(structure.names, values, strict=True))
        for tap in self._taps:
            if not isinstance(seen.get(tap), Tensor):
                raise CompileError(f"module {tap!r} is not called, or gives no single tensor")
            name = tap.replace(".", "_")
            name = f"tap_{name}" if name[0].isdigit() or name in answer else name
            answer[name] = seen[tap]
        return answer


def structure_of(result: Any) -> OutputStructure:
    """How the result of forward is built from tensors.

    Raises:
        CompileError: Something else than a tensor, or a flat tuple, list, dict or NamedTuple.
    """
    values = _flat(result)
    for value in values:
        if not isinstance(value, Tensor):
            raise CompileError(
                f"forward returns a {type(value).__name__} where a tensor is expected",
                hint="return a tensor, or a flat tuple, dict or NamedTuple of tensors",
            )
    if not values:
        raise CompileError("forward returns nothing")
    if isinstance(result, Tensor):
        return OutputStructure()
    if isinstance(result, dict):
        return OutputStructure("dict", tuple(str(key) for key in result))
    if hasattr(result, "_fields"):
        return OutputStructure("namedtuple", tuple(result._fields), type(result).__name__)
    return OutputStructure("tuple", tuple(f"out{i}" for i in range(len(values))))


def _flat(result: Any) -> list[Any]:
    if isinstance(result, dict):
        return list(result.values())
    if isinstance(result, tuple | list):
        return list(result)
    return [result]


def check_names(inputs: Sequence[str], structure: OutputStructure) -> None:
    """Refuse names that cannot be C identifiers, or that mean two things.

    Raises:
        CompileError: Names it.
    """
    for name in (*inputs, *structure.names):
        if not is_c_name(name) or name in ("self", "outputs", "check"):
            raise CompileError(
                f"{name!r} cannot be the name of an input or output in C",
                hint="rename the argument of forward, or the key of the returned dict",
            )
    upper = [name.upper() for name in (*inputs, *structure.names)]
    for name in upper:
        if upper.count(name) > 1:
            raise CompileError(f"two inputs or outputs are called {name.lower()!r}")
