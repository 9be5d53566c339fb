"""What is measured: a job, one library's code for it, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Goal:
    """What ours should not exceed: instructions (or modelled cycles) per sample or frame, bytes."""

    instructions: float | None = None
    cycles: float | None = None
    text_bytes: int | None = None
    ram_bytes: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One task, in one block size.

    `kind` says what it is and `parameters` with which numbers: a library's file has code for some
    kinds. Every row of `signal` is one block and gives the same row of `expected`, computed by
    numpy, scipy or torch in float64. Figures are per sample of a block, or per block if `per` is
    "frame". `limit` estimates the least number of instructions.
    """

    key: str
    title: str
    kind: str
    signal: Array  # (blocks, ...) float32
    expected: Array  # (blocks, ...) float64 or int32
    module: Callable[[], torch.nn.Module] | None  # None: microddsp has no block for it
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 2e-5
    per: str = "sample"
    goal: Goal = Goal()
    limit: float | None = None
    group: str = ""

    @property
    def blocks(self) -> int:
        return len(self.signal)

    @property
    def block(self) -> int:
        return int(self.signal.shape[-1])

    @property
    def units(self) -> int:
        """Samples or frames that all blocks make together."""
        return self.blocks * (self.block if self.per == "sample" else 1)

    @property
    def inputs(self) -> Array:
        return np.ascontiguousarray(self.signal, dtype="float32")

    @property
    def out_dtype(self) -> str:
        return "int32" if np.issubdtype(self.expected.dtype, np.integer) else "float32"

    @property
    def out_elements(self) -> int:
        return int(np.prod(self.expected.shape[1:]))


@dataclass(frozen=True, slots=True)
class Code:
    """A library's code for a job: `header` declares what it needs and defines two macros,
    JOB_INIT() and JOB_PROCESS(from, to), the call that is measured. `in_order` brings what comes
    out, (blocks, `out_elements`), into the job's own order; `optimise` is the compiler's option.
    """

    header: str
    sources: Mapping[str, str]
    includes: tuple[Path, ...] = ()
    archives: tuple[Path, ...] = ()
    ours: bool = False
    out_elements: int | None = None
    in_order: Callable[[Array], Array] | None = None
    optimise: str = "-O3"


@dataclass(frozen=True, slots=True)
class Result:
    """Figures of one library's code for one job. `ram_bytes`: state, buffers and stack, without
    the caller's input and output. `cycles_low` and `cycles_high` are modelled."""

    job: str
    library: str
    board: str
    instructions: float
    cycles_low: float | None
    cycles_high: float | None
    text_bytes: int
    ram_bytes: int
    stack_bytes: int
    error: float
    correct: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
