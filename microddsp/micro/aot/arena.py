"""Static memory plan: buffers that are alive at the same time lie side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ALIGN = 8


@dataclass(frozen=True, slots=True)
class Buffer:
    """A scratch tensor, alive from call `first` to call `last`, both included."""

    name: str
    nbytes: int
    first: int
    last: int

    def overlaps(self, other: Buffer) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class Plan:
    """Offsets by buffer name and the size of the arena, in bytes."""

    offsets: dict[str, int]
    nbytes: int


def plan_arena(buffers: Iterable[Buffer]) -> Plan:
    """The smallest of two greedy plans: largest first, and in order of life.

    Orders are total (then by name), so the same model always gives the same plan.
    """
    known = list(buffers)
    by_size = sorted(known, key=lambda b: (-b.nbytes, b.name))
    by_life = sorted(known, key=lambda b: (b.first, -b.nbytes, b.name))
    return min((_place(order) for order in (by_size, by_life)), key=lambda plan: plan.nbytes)


def _place(order: Sequence[Buffer]) -> Plan:
    """Every buffer at the lowest free offset."""
    offsets: dict[str, int] = {}
    placed: list[Buffer] = []
    for buffer in order:
        rivals = sorted((offsets[p.name], p.nbytes) for p in placed if p.overlaps(buffer))
        at = 0
        for start, size in rivals:
            if at + buffer.nbytes <= start:
                break
            at = max(at, -(-(start + size) // ALIGN) * ALIGN)
        offsets[buffer.name] = at
        placed.append(buffer)
    total = max((offsets[b.name] + b.nbytes for b in placed), default=0)
    return Plan(offsets, -(-total // ALIGN) * ALIGN)
