"""What a compiled model is made of: units of the pipeline, and the kernels that each became.

Plain data without heavy imports: it lies in the archive, so that a report needs no pipeline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from microddsp.errors import ArchiveError

INPUT = "input"


@dataclass(frozen=True, slots=True)
class Unit:
    """A block, a layer of torch or an operator of the user's own forward; or an input.

    `path` is the module's, `kind` its class, or the operator's name; `operators` what it was
    traced to. `inputs` are indices of units before this one, `shape` is that of its result for
    one block, `states` names of its members in the state struct. `per_block` is how many samples
    or frames of it a block has; None for what is no stream.
    """

    path: str
    kind: str
    operators: tuple[str, ...] = ()
    inputs: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    states: tuple[str, ...] = ()
    per_block: int | None = None


@dataclass(frozen=True, slots=True)
class KernelCall:
    """One call inside `process`: a kernel's C name, or "" for a copy; its first and last step in
    the memory plan; the units that it computes; the places that it takes, such as `arena.t0`."""

    kernel: str
    first: int
    last: int
    units: tuple[int, ...] = ()
    places: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StateField:
    """A member of the state struct on a 32-bit target, in bytes."""

    name: str
    nbytes: int
    offset: int


@dataclass(frozen=True, slots=True)
class Outline:
    """Units in the order of computation, the unit of each output, the calls in order."""

    units: tuple[Unit, ...] = ()
    outputs: tuple[int, ...] = ()
    calls: tuple[KernelCall, ...] = ()
    states: tuple[StateField, ...] = ()

    def calls_of(self, unit: int) -> tuple[int, ...]:
        """Indices of the calls that compute a unit, or a part of it."""
        return tuple(i for i, call in enumerate(self.calls) if unit in call.units)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Outline:
        """The inverse of `to_json`, strict about types.

        Raises:
            ArchiveError: Something is missing, of the wrong kind or out of range.
        """
        from pydantic import TypeAdapter, ValidationError

        try:
            outline = TypeAdapter(Outline).validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ArchiveError(f"outline: {place}: {first['msg']}") from error
        count = len(outline.units)
        numbers = [*outline.outputs, *(i for call in outline.calls for i in call.units)]
        backward = [i for at, unit in enumerate(outline.units) for i in unit.inputs if i >= at]
        numbers += [i for unit in outline.units for i in unit.inputs]
        if backward or not all(0 <= i < count for i in numbers):
            raise ArchiveError("outline: a unit that is named does not come before")
        return outline
