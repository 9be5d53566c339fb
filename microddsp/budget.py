"""Limits that a compiled model must keep, and what takes the room where it does not.

Light: the command line reads limits before anything heavy is imported.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from microddsp.errors import BudgetError, ParameterError, nearest

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

KEYS = ("flash", "ram", "stack", "state", "arena", "constants", "load")
FLASH, RAM = {"flash", "constants"}, {"ram", "state", "arena"}
_SIZE = re.compile(r"(\d+)([KkMm]?)(?:i?[Bb])?")
_FACTOR = {"": 1, "k": 1024, "m": 1024 * 1024}
_LOAD = re.compile(r"(\d+(?:\.\d+)?)%@(\d+(?:\.\d+)?)([kM]?)Hz")
_HERTZ = {"": 1.0, "k": 1e3, "M": 1e6}


@dataclass(frozen=True, slots=True)
class LoadLimit:
    """At most `share` of a processor with this clock."""

    share: float
    clock_hz: float

    def __str__(self) -> str:
        return f"{100 * self.share:g}% at {self.clock_hz / 1e6:g} MHz"


def read_limits(given: Mapping[str, int | str] | None) -> dict[str, int | LoadLimit]:
    """Bytes for flash, ram, state, arena, constants and stack; for load a text like "50%@64MHz".

    Raises:
        ParameterError: No mapping, an unknown key, or a limit that is not larger than zero.
    """
    limits: dict[str, int | LoadLimit] = {}
    if not isinstance(given, Mapping | None):
        raise ParameterError(f'a budget names what it limits, as {{"flash": "16K"}}, got {given!r}')
    for key, value in (given or {}).items():
        if key not in KEYS:
            raise ParameterError(f"unknown budget {key!r}", hint=nearest(key, KEYS))
        limits[key] = _load(str(value)) if key == "load" else _size(key, value)
    return limits


def _size(key: str, value: int | str) -> int:
    if isinstance(value, str):
        found = _SIZE.fullmatch(value.strip())
        if not found:
            raise ParameterError(f"{value!r} is no size; write {key}=16K or {key}=16384")
        value = int(found[1]) * _FACTOR[found[2].lower()]
    if value <= 0:
        raise ParameterError(f"budget {key} must be positive, got {value}")
    return value


def _load(text: str) -> LoadLimit:
    found = _LOAD.fullmatch(text.strip())
    if not found or not float(found[1]) or not float(found[2]):
        raise ParameterError(f"{text!r} is no load; write load=50%@64MHz")
    return LoadLimit(float(found[1]) / 100, float(found[2]) * _HERTZ[found[3]])


def check_budget(model: CompiledModel, limits: Mapping[str, int | LoadLimit]) -> None:
    """Raise if a limit is passed.

    Raises:
        BudgetError: With a table of what takes the room.
        CompileError: The load cannot be told.
        BoardError: The cross compiler, or for the load the emulator, is missing.
    """
    rows, over = [], []
    for key, limit in limits.items():
        used, text = used_of(model, key, limit)
        rows.append(f"{key:9} {text}")
        if used > 1:
            over.append(key)
    if not over:
        return
    hints = ["a shorter block or hop, a lower order or fewer channels take less"]
    rows += _table(model, over)
    if "load" in over:
        hints.append("a lower sample rate (dsp.Decimate) takes fewer cycles")
    raise BudgetError(
        f"over budget: {', '.join(over)}\n" + "\n".join(rows),
        where=model.name,
        hint="; ".join(hints),
    )


def used_of(model: CompiledModel, key: str, limit: int | LoadLimit) -> tuple[float, str]:
    """How much of the limit is used (1 is all), and that in words."""
    if isinstance(limit, LoadLimit):
        load = model.load
        share = load.share(model.signature, limit.clock_hz)
        return share / limit.share, (
            f"{100 * share:8.2f}% of {limit}: {load.cycles_high:.0f} modelled cycles a block of "
            f"{model.signature.block}"
        )
    # what the plan tells needs no compiler
    planned = {
        "state": model.signature.state_bytes,
        "arena": model.signature.workspace_bytes,
        "constants": model.constant_bytes,
    }
    used = planned[key] if key in planned else getattr(model.memory, f"{key}_bytes")
    return used / limit, f"{used:>8} of {limit}"


def _table(model: CompiledModel, over: Collection[str]) -> list[str]:
    """What takes the room that the passed limits are about: flash, RAM or both."""
    memory = model.memory
    rows = []
    if FLASH & set(over):
        rows += [f"  section {name:26} {size:>8}" for name, size in _largest(memory.sections)]
        rows += [f"  symbol  {name:26} {size:>8}" for name, size in _largest(memory.symbols)]
    if RAM & set(over):
        rows += [f"  state                              {memory.state_bytes:>8}"]
        buffers = {f"{row[0]} (steps {row[3]} to {row[4]})": row[1] for row in memory.buffers}
        rows += [f"  arena   {name:26} {size:>8}" for name, size in _largest(buffers)]
        rows += [f"  arena in all                       {memory.arena_bytes:>8}"]
    return rows


def _largest(sizes: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
