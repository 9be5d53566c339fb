"""From which step to which a scratch tensor is needed. Each statement of a kernel is a step."""

from __future__ import annotations

from collections.abc import Sequence

from microddsp.micro.aot.arena import Buffer
from microddsp.micro.aot.calls import Call, Place


def lives(
    calls: Sequence[Call], kinds: Sequence[str]
) -> tuple[list[Buffer], list[tuple[str, str]]]:
    """The buffers of the arena in order of appearance, and the pairs (old, new) of which `new` may
    take the place of `old` while a kernel still reads it.

    Args:
        calls: The program.
        kinds: Kinds of places that lie in the arena. Inputs are there before the first step,
            outputs stay until after the last.
    """
    steps: dict[str, list[int]] = {}
    sizes: dict[str, int] = {}
    users: dict[str, list[int]] = {}
    now = 0
    for at, call in enumerate(calls):
        spans = _spans(call)
        for place, (first, last) in zip(call.arguments, spans, strict=True):
            if place.kind in kinds:
                steps.setdefault(place.key, []).extend((now + first, now + last))
                sizes[place.key] = place.nbytes
                users.setdefault(place.key, []).append(at)
        now += _statements(call)
    for key in steps:
        if key.startswith("input."):
            steps[key].append(0)
        if key.startswith("output."):
            steps[key].append(now)
    buffers = [Buffer(n, sizes[n], min(steps[n]), max(steps[n])) for n in steps]
    pairs = [
        (old.key, new.key)
        for at, call in enumerate(calls)
        for old in _planned(call, kinds)
        for new in _planned(call, kinds)
        if users[old.key][-1] == at and users[new.key][0] == at and old.key != new.key
        if old.kind != "output" and new.kind != "input"
        if old.dtype == new.dtype and _follows(call, old, new)
    ]
    return buffers, sorted(set(pairs))


def steps(calls: Sequence[Call]) -> list[tuple[int, int]]:
    """The first and the last step of each call."""
    found, now = [], 0
    for call in calls:
        found.append((now, now + _statements(call) - 1))
        now += _statements(call)
    return found


def _planned(call: Call, kinds: Sequence[str]) -> list[Place]:
    return [place for place in call.arguments if place.kind in kinds]


def _statements(call: Call) -> int:
    accesses = call.kernel.accesses if call.kernel else None
    return accesses.statements if accesses else 1


def _spans(call: Call) -> Sequence[tuple[int, int]]:
    accesses = call.kernel.accesses if call.kernel else None
    return accesses.spans if accesses else [(0, 0)] * len(call.arguments)


def _follows(call: Call, old: Place, new: Place) -> bool:
    """Every element of `old` was used for the last time before `new` is written there."""
    if call.kernel is None or call.kernel.accesses is None:
        return False
    names = [p.key for p in call.arguments]
    return all(
        call.kernel.accesses.gives_way(i, j)
        for i, name in enumerate(names)
        for j, other in enumerate(names)
        if name == old.key and other == new.key
    )
