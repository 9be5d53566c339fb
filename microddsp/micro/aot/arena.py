"""Static memory plan: buffers that are alive at the same time lie side by side."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import combinations

from microddsp.errors import CompileError

ALIGN = 8
# Orders that the climb looks at, and buffers above which it is not tried.
_TRIALS = 400
_CLIMBED = 200


@dataclass(frozen=True, slots=True)
class Buffer:
    """A scratch tensor, alive from step `first` to step `last`, both included."""

    name: str
    nbytes: int
    first: int
    last: int

    def overlaps(self, other: Buffer) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class Plan:
    """Offsets by buffer name and the size of the arena, in bytes. `merged` are the pairs of
    (old, new) buffers that lie in the same place though both are alive in one step."""

    offsets: dict[str, int]
    nbytes: int
    merged: tuple[tuple[str, str], ...] = ()


# Buffers and alignment to offsets by name.
Planner = Callable[[Sequence[Buffer], int], Mapping[str, int]]


def plan_arena(
    buffers: Iterable[Buffer], *, inplace: Iterable[tuple[str, str]] = (), align: int = ALIGN
) -> Plan:
    """The smallest plan of several; the same model always gives the same one.

    Args:
        buffers: Names are unique.
        inplace: Pairs (old, new): `new` may begin where `old` begins, in the last step of `old`
            and the first of `new`. Used only where the arena becomes smaller.
        align: Bytes; offsets and the size are multiples of it.
    """
    known = sorted(buffers, key=lambda b: b.name)
    plain = _smallest(known, align)
    chosen = _disjoint(inplace, {b.name for b in known if b.first == b.last})
    if not chosen:
        return plain
    best = _merged(known, chosen, align)
    if best.nbytes >= plain.nbytes:
        return plain
    for pair in chosen:  # those that do not help cost the compiler its freedom for nothing
        fewer = tuple(p for p in best.merged if p != pair)
        trial = _merged(known, fewer, align)
        if trial.nbytes <= best.nbytes:
            best = trial
    return best


def plan_with(planner: Planner, buffers: Sequence[Buffer], *, align: int = ALIGN) -> Plan:
    """The plan of somebody's own function, checked.

    Raises:
        CompileError: It forgets a buffer, or one is not aligned or lies in another that is alive
            in the same step.
    """
    offsets = {str(name): int(at) for name, at in planner(tuple(buffers), align).items()}
    if offsets.keys() != {b.name for b in buffers}:
        raise CompileError("the planner must place each buffer, and nothing else")
    for b in buffers:
        if offsets[b.name] < 0 or offsets[b.name] % align:
            raise CompileError(f"the planner puts {b.name} at {offsets[b.name]}, not aligned")
    for a, b in combinations(buffers, 2):
        apart = (
            offsets[a.name] + a.nbytes <= offsets[b.name]
            or offsets[b.name] + b.nbytes <= offsets[a.name]
        )
        if a.overlaps(b) and not apart:
            raise CompileError(f"the planner puts {a.name} and {b.name} in the same place")
    total = max((offsets[b.name] + b.nbytes for b in buffers), default=0)
    return Plan(offsets, _up(total, align))


def _disjoint(pairs: Iterable[tuple[str, str]], brief: Set[str]) -> tuple[tuple[str, str], ...]:
    """Every buffer gives its place to one other, and takes that of one other; not both in the one
    step of a `brief` one, in which all three would be alive."""
    given: set[str] = set()
    taken: set[str] = set()
    chosen = []
    for old, new in sorted(pairs):
        both = (old in brief and old in taken) or (new in brief and new in given)
        if old not in given and new not in taken and not both:
            given.add(old)
            taken.add(new)
            chosen.append((old, new))
    return tuple(chosen)


def _merged(known: Sequence[Buffer], pairs: Sequence[tuple[str, str]], align: int) -> Plan:
    """The plan with each chain of pairs as one buffer."""
    head = {b.name: b.name for b in known}
    for old, new in sorted(pairs, key=lambda pair: _first(known, pair[1])):
        head[new] = head[old]
    groups: dict[str, Buffer] = {}
    for b in known:
        name = head[b.name]
        g = groups.get(name, Buffer(name, b.nbytes, b.first, b.last))
        size, first, last = max(g.nbytes, b.nbytes), min(g.first, b.first), max(g.last, b.last)
        groups[name] = Buffer(name, size, first, last)
    plan = _smallest(sorted(groups.values(), key=lambda b: b.name), align)
    offsets = {b.name: plan.offsets[head[b.name]] for b in known}
    return Plan(offsets, plan.nbytes, tuple(pairs))


def _first(known: Sequence[Buffer], name: str) -> int:
    return next(b.first for b in known if b.name == name)


def _smallest(known: Sequence[Buffer], align: int) -> Plan:
    least = most_at_once(known, align)
    best: Plan | None = None
    for plan in _candidates(known, align, least):
        if best is None or plan.nbytes < best.nbytes:
            best = plan
        if best.nbytes == least:
            break
    assert best is not None
    return best


def most_at_once(known: Sequence[Buffer], align: int = ALIGN) -> int:
    """Bytes that are alive together in the worst step: no plan can be smaller."""
    return max(
        (sum(_up(b.nbytes, align) for b in known if b.first <= a.first <= b.last) for a in known),
        default=0,
    )


def _candidates(known: Sequence[Buffer], align: int, least: int) -> Iterator[Plan]:
    """Greedy plans of three orders, the plan from both ends, then better and better orders."""
    near = {
        b.name: sum(o.nbytes for o in known if o.name != b.name and o.overlaps(b)) for b in known
    }
    orders = [
        sorted(known, key=lambda b: (-b.nbytes, b.name)),
        sorted(known, key=lambda b: (-near[b.name], -b.nbytes, b.name)),
        sorted(known, key=lambda b: (b.first, -b.nbytes, b.name)),
    ]
    yield from (_place(order, align) for order in orders)
    both = _from_both_ends(known, align, least)
    if both is not None:
        yield both
    if len(known) <= _CLIMBED:
        yield _climb(min(orders, key=lambda o: _place(o, align).nbytes), align, least)


def _place(order: Sequence[Buffer], align: int) -> Plan:
    """Every buffer at the lowest free offset."""
    offsets: dict[str, int] = {}
    placed: list[Buffer] = []
    for buffer in order:
        rivals = sorted((offsets[p.name], p.nbytes) for p in placed if p.overlaps(buffer))
        at = 0
        for start, size in rivals:
            if at + buffer.nbytes <= start:
                break
            at = max(at, _up(start + size, align))
        offsets[buffer.name] = at
        placed.append(buffer)
    total = max((offsets[b.name] + b.nbytes for b in placed), default=0)
    return Plan(offsets, _up(total, align))


def _from_both_ends(known: Sequence[Buffer], align: int, least: int) -> Plan | None:
    """Where at most two are alive at once (a chain), neighbours lie at opposite ends: that is
    the least there can be. None where three meet."""
    ends: dict[str, int] = {}
    for b in sorted(known, key=lambda b: (b.first, b.name)):
        taken = {ends[o.name] for o in known if o.name in ends and o.overlaps(b)}
        free = [end for end in (0, 1) if end not in taken]
        if not free:
            return None
        ends[b.name] = free[0]
    offsets = {b.name: (least - _up(b.nbytes, align)) * ends[b.name] for b in known}
    return Plan(offsets, least)


def _climb(start: Sequence[Buffer], align: int, least: int) -> Plan:
    """Change places of two buffers in the order and keep what is no worse (hill climbing).

    The dice are always the same and the trials are counted, not timed: equal models give equal
    plans on every computer.
    """
    dice = random.Random(0)
    order = list(start)
    best = _place(order, align)
    pairs = list(combinations(range(len(order)), 2))
    for _ in range(_TRIALS if pairs else 0):
        if best.nbytes == least:
            break
        i, j = pairs[dice.randrange(len(pairs))]
        order[i], order[j] = order[j], order[i]
        trial = _place(order, align)
        if trial.nbytes <= best.nbytes:
            best = trial
        else:
            order[i], order[j] = order[j], order[i]
    return best


def _up(nbytes: int, align: int) -> int:
    return -(-nbytes // align) * align
