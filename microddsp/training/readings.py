"""What a module has learned, in physical units: hertz, seconds, thresholds, not their logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from microddsp.dsp.block import Block

# Parameters with more elements than this are told by their root mean square.
MOST_ELEMENTS = 64


class Readings:
    """The learned values of a module by name, such as `band.f0_hz` or `taps[3]`.

    Blocks tell them by their properties; what no property tells is read as it is stored.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._sources = list(_sources(module))
        self.names = list(self.read())

    def read(self) -> dict[str, float]:
        """The values now."""
        found: dict[str, float] = {}
        with torch.no_grad():
            for name, source in self._sources:
                value = source().detach().double()
                if value.dim() == 0:
                    found[name] = value.item()
                elif value.numel() > MOST_ELEMENTS:
                    found[f"{name}.rms"] = value.square().mean().sqrt().item()
                else:
                    found.update(_elements(name, value))
        return found


def _elements(name: str, value: Tensor) -> Iterator[tuple[str, float]]:
    for place, number in zip(_places(value), value.flatten().tolist(), strict=True):
        yield f"{name}[{place}]", number


def _places(value: Tensor) -> list[str]:
    return [",".join(map(str, index)) for index in torch.ones(value.shape).nonzero().tolist()]


def _sources(module: torch.nn.Module) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Names and getters, in the order of the modules."""
    told: set[int] = set()
    for path, inner in module.named_modules():
        if isinstance(inner, Block):
            own = [p for p in inner.parameters() if p.requires_grad]
            for name in _properties(type(inner)):
                used = _used(inner, name, own)
                if used:
                    told |= used
                    yield _join(path, name), partial(getattr, inner, name)
        for name, parameter in inner.named_parameters(recurse=isinstance(inner, Block)):
            if parameter.requires_grad and id(parameter) not in told:
                told.add(id(parameter))
                yield _join(path, name), partial(_itself, parameter)


def _itself(parameter: Tensor) -> Tensor:
    return parameter


def _properties(kind: type) -> list[str]:
    """Public properties, those of base classes first."""
    names: dict[str, None] = {}
    for base in reversed(kind.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, property) and name[0] != "_" and base is not torch.nn.Module:
                names[name] = None
    return [name for name in names if name != "settle_samples"]


def _used(block: Block, name: str, parameters: list[torch.nn.Parameter]) -> set[int]:
    """Which learned parameters a property is made of; empty if it is no learned value."""
    if not parameters:
        return set()
    with torch.enable_grad():
        value = getattr(block, name)
        if not isinstance(value, Tensor) or not value.requires_grad:
            return set()
        gradients = torch.autograd.grad(value.sum(), parameters, allow_unused=True)
    return {id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
