"""What generated `set_` functions do: copy a number, or run the design that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import tvm

from microddsp.errors import CompileError
from microddsp.micro.aot.program import Program, build_program
from microddsp.schedules.pipeline import pipeline
from microddsp.schedules.sample_loop import LoopShape

if TYPE_CHECKING:
    from microddsp.frontend.capture import Capture, Design

# A design works on the stack: it runs seldom, and not while a block is processed.
MAX_STACK_BYTES = 4096
VALID = "valid"


@dataclass(frozen=True, slots=True)
class Setter:
    """`<model>_set_<name>`: writes `member` of the state itself, or through design `design`."""

    name: str
    path: str
    value: np.ndarray
    member: str
    design: int | None = None

    @property
    def scalar(self) -> bool:
        return self.value.ndim == 0


@dataclass(frozen=True, slots=True)
class DesignProgram:
    """Calls that compute `settings` (output of the program, member of the state) from `numbers`
    (setters' names); all of its memory is one scratch."""

    index: int
    program: Program
    numbers: tuple[str, ...]
    settings: tuple[tuple[str, str, int], ...]  # output, member, elements


def member_of_number(name: str) -> str:
    return f"v_{name}"


def build_setters(
    captured: Capture, name: str, members: dict[str, str], *, fma: bool, loops: LoopShape
) -> tuple[list[Setter], list[DesignProgram]]:
    """Setters of all tunable numbers; `members` are the state's members by module path.

    Raises:
        CompileError: A design cannot be computed on a device.
    """
    setters = [Setter(n.name, n.path, _numbers(n.value), members[n.path]) for n in captured.plain]
    designs = []
    for index, design in enumerate(captured.designs):
        designs.append(_design(index, design, name, members, fma=fma, loops=loops))
        setters += [
            Setter(n.name, n.path, _numbers(n.value), member_of_number(n.name), index)
            for n in design.numbers
        ]
    return setters, designs


def _numbers(value: object) -> np.ndarray:
    return np.asarray(value, dtype="float32")


def _design(
    index: int,
    design: Design,
    name: str,
    members: dict[str, str],
    *,
    fma: bool,
    loops: LoopShape,
) -> DesignProgram:
    with tvm.target.Target({"kind": "c", "keys": ["cpu"]}):
        lowered = pipeline(loops)(design.module)
    outputs = [f"o{i}" for i in range(len(design.settings))]
    program = build_program(
        lowered,
        name,
        inputs=[number.name for number in design.numbers],
        outputs=[*outputs, VALID],
        states=[],
        fma=fma,
        io_in_arena=True,
        prefix=f"d{index}_",
        doubles=True,
    )
    if program.plan.nbytes > MAX_STACK_BYTES:
        raise CompileError(
            f"its design needs {program.plan.nbytes} bytes of stack, more than {MAX_STACK_BYTES}",
            where=design.numbers[0].path,
            hint="leave it fixed",
        )
    fields: Sequence[tvm.relax.TensorType] = design.module["main"].ret_ty.fields
    sizes = [int(np.prod([int(d) for d in ty.shape])) for ty in fields]
    settings = zip(outputs, (members[path] for path in design.settings), sizes, strict=False)
    return DesignProgram(index, program, tuple(n.name for n in design.numbers), tuple(settings))
