"""States in C: how they start, and what tells that one is not finite any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# So many elements of a state are added one by one, more in a loop.
_MOST_TERMS = 4
# So many zeros are written one by one: compilers call a library for more.
_FEW_ZEROS = 16
_ZEROS = {"float32": "0.0f", "float64": "0.0"}


@dataclass(frozen=True, slots=True)
class StateMember:
    """A member of the state struct. `recursive` ones are checked for NaN after each block;
    `kept` ones (counts) survive when a NaN was found and the signal starts anew; a `setting` is no
    memory of the signal at all: only `init` and its setter write it."""

    name: str
    initial: np.ndarray
    recursive: bool
    kept: bool = False
    setting: bool = False

    @property
    def elements(self) -> int:
        return int(self.initial.size)


def finite_checks(
    states: Sequence[StateMember], witnesses: Mapping[str, tuple[int, ...]]
) -> dict[str, list[Any]]:
    """What is added up to find a state that is not finite: `check_terms`, single elements, and
    `check_loops`, elements one `step` after another."""
    terms: list[str] = []
    loops: list[dict[str, Any]] = []
    for s in states:
        if not (s.recursive and str(s.initial.dtype) == "float32"):
            continue
        rows = s.initial.shape[0] if s.initial.ndim else 1
        per_row = s.elements // max(rows, 1)
        chosen = witnesses.get(s.name, tuple(range(per_row)))
        known = [row * per_row + i for row in range(rows) for i in chosen]
        if len(known) <= _MOST_TERMS:
            terms += [f"self->{s.name}[{i}]" for i in known]
        elif len(chosen) == per_row:
            loops.append({"name": s.name, "first": 0, "elements": s.elements, "step": 1})
        else:
            loops += [
                {"name": s.name, "first": i, "elements": s.elements, "step": per_row}
                for i in chosen
            ]
    return {"check_terms": terms, "check_loops": loops}


def resets(name: str, states: Sequence[StateMember]) -> list[str]:
    """Statements that give states their initial values."""
    zeros = sum(s.elements for s in states if not s.initial.any())
    return [line for s in states for line in _reset(name, s, one_by_one=zeros <= _FEW_ZEROS)]


def _reset(name: str, state: StateMember, *, one_by_one: bool) -> list[str]:
    member = f"self->{state.name}"
    if state.initial.any():
        return [f"(void)memcpy({member}, {name}_{state.name}_start, sizeof({member}));"]
    if not one_by_one:
        return [f"(void)memset({member}, 0, sizeof({member}));"]
    zero = _ZEROS.get(str(state.initial.dtype), "0")
    return [f"{member}[{i}] = {zero};" for i in range(state.elements)]
