"""A candidate that is wrong in any way gets its reason, and the others of its image their time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from microddsp.micro.aot.kernel import Parameter
from microddsp.micro.boards import find_board
from microddsp.tuning.measure import Outcome
from microddsp.tuning.remote import Wear
from microddsp.tuning.task import Candidate, Task

pytestmark = pytest.mark.qemu
Tried = Callable[..., list[Outcome]]


def _doctored(task: Task, more: str) -> Candidate:
    """The default with some C at its end."""
    kernel = task.default.kernels[-1]
    return replace(task.default, kernels=(replace(kernel, body=f"{kernel.body}    {more}\n"),))


def _parameter(task: Task, *, written: bool) -> Parameter:
    kernel = task.default.kernels[-1]
    return next(
        p
        for i, p in enumerate(kernel.parameters)
        if p.written == written and i not in task.default.constants
    )


def test_every_failure_has_its_reason_and_takes_no_other_with_it(
    loop: Task, try_all: Tried
) -> None:
    first, into = _parameter(loop, written=True), _parameter(loop, written=False).name
    out = first.name
    wrong = {
        f"{out}[3] += 1.0f;": f"wrong: {out} is off by",
        f"{out}[2] = NAN;": f"wrong: {out} is not finite",
        "syntax error": "error: unknown type name 'syntax'",
        'for (;;) { __asm__ volatile(""); }': "hangs: more than 1000000 instructions",
        "*(volatile int *)0xf0000000u = 1;": "stops with a fault",
        f"{out}[{first.elements}] = 1.0f;": "writes outside of its arguments",
        f"((float *){into})[1] = 7.0f;": f"writes into its input {into}",
        "*(volatile unsigned *)0x100u = 1;": "writes into the program",
        "not_there();": "cannot be linked: undefined reference to `not_there'",
    }
    bad = [_doctored(loop, text) for text in wrong]
    found = try_all(loop, [loop.default, *bad, loop.default], timeout_s=60.0)
    for outcome, reason in zip(found[1:-1], wrong.values(), strict=True):
        assert outcome.reason.startswith(reason)
        assert not outcome.figures
    assert found[0].reason == ""
    assert found[0] == found[-1]  # whatever happened between them


def test_what_waits_for_ever_is_ended_in_time(loop: Task, try_all: Tried) -> None:
    (found,) = try_all(loop, [_doctored(loop, '__asm__ volatile("wfi");')], timeout_s=2.0)
    assert found.reason == "hangs: not done after 2 s"


def test_wear_is_told_each_hundred_times() -> None:
    told: list[str] = []
    wear = Wear(find_board("mps2-an386"), told.append)
    for _ in range(205):
        wear.count()
    assert wear.flashes == 205
    assert [text.split(" times")[0] for text in told] == [
        "the flash of mps2-an386 was written 100",
        "the flash of mps2-an386 was written 200",
    ]


def test_object_code_gives_the_same_and_has_a_time_of_its_own(loop: Task, try_all: Tried) -> None:
    ours, by_llvm, small = try_all(
        loop,
        [loop.default, replace(loop.default, emit="obj"), replace(loop.default, flags=("-Os",))],
    )
    assert (ours.reason, by_llvm.reason, small.reason) == ("", "", "")
    assert small.figures != ours.figures
    for outcome in (ours, by_llvm, small):
        assert 0 < outcome.figures["instructions"] < outcome.figures["cycles"]
    assert by_llvm.figures != ours.figures
