"""Where the memory of a model lies and how it is aligned. Light: the command line reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from microddsp.errors import ParameterError, nearest
from microddsp.micro.aot.arena import Planner

ALIGNMENTS = (8, 16, 32, 64)
CLASSES = ("state", "constants", "arena")
_SECTION = re.compile(r"[A-Za-z0-9_.$]{1,64}")


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """Alignments in bytes (constants: None is that of their type); `sections` maps "state",
    "constants" and "arena" to names of linker sections. `planner` places the arena's buffers in
    place of ours: buffers and alignment in, offsets in bytes by name out; the result is checked.

    Raises:
        ParameterError: A value makes no sense.
    """

    workspace_align: int = 8
    constant_align: int | None = None
    sections: Mapping[str, str] = field(default_factory=dict)
    planner: Planner | None = None

    def __post_init__(self) -> None:
        for align in (self.workspace_align, self.constant_align):
            if align is not None and align not in ALIGNMENTS:
                raise ParameterError(
                    f"an alignment of {align} bytes cannot be had",
                    hint=f"one of {', '.join(map(str, ALIGNMENTS))}",
                )
        for kind, section in self.sections.items():
            if kind not in CLASSES:
                raise ParameterError(
                    f"no memory is called {kind!r}", hint=nearest(kind, list(CLASSES))
                )
            if not _SECTION.fullmatch(section):
                raise ParameterError(f"{section!r} cannot name a section")
