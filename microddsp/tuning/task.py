"""What is tuned: one kernel of a compiled model, and what it may become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from microddsp.micro.aot.kernel import Kernel


@dataclass(frozen=True)
class Candidate:
    """Code for a kernel: the last of `kernels` is the entry, the others are its helpers.

    `constants` are tables by parameter of the entry. `flags` are of its own, behind those of the
    target; `choices` are for people.
    """

    kernels: tuple[Kernel, ...]
    emit: str = "c"
    flags: tuple[str, ...] = ()
    choices: Mapping[str, object] = field(default_factory=dict)
    constants: Mapping[int, np.ndarray] = field(default_factory=dict)
    checked: tuple[int, ...] | None = None
