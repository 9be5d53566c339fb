"""Calls of kernels on named memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from microddsp.micro.aot.kernel import Kernel


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lives: kind is input, output, state, constant or arena."""

    kind: str
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def key(self) -> str:
        """Its name in the memory plan."""
        return self.name if self.kind == "arena" else f"{self.kind}.{self.name}"

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape)) if self.shape else 1

    @property
    def nbytes(self) -> int:
        return self.elements * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Call:
    """A kernel on places; `kernel` is None for a copy from arguments[0] to arguments[1]."""

    kernel: Kernel | None
    arguments: tuple[Place, ...]
