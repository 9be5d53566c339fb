"""A session finds the best of a space, keeps what it measured, and goes on where it was killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tvm import s_tir

from microddsp.errors import ParameterError
from microddsp.micro.boards import find_board
from microddsp.tuning.database import TRIALS, read_trials
from microddsp.tuning.measure import Outcome
from microddsp.tuning.options import select
from microddsp.tuning.report import Tuning
from microddsp.tuning.session import tune_tasks
from microddsp.tuning.task import Candidate, Task

pytestmark = pytest.mark.qemu
BOARD = find_board("mps2-an386")


def _tune(task: Task, folder: Path, **options: Any) -> Tuning:
    return tune_tasks([task], records=folder, board=BOARD, batch=4, **options)


def _every(task: Task) -> list[Candidate]:
    """The whole space."""
    from itertools import product

    names = [choice.name for choice in task.choices]
    return [
        task._make(task.default_schedule(), dict(zip(names, values, strict=True)))
        for values in product(*(choice.values for choice in task.choices))
    ]


def test_the_best_of_a_small_space_is_found(
    loop: Task, tmp_path: Path, try_all: Callable[..., list[Outcome]]
) -> None:
    known = [o.figures["cycles"] for o in try_all(loop, _every(loop))]
    result = _tune(loop, tmp_path, trials=100)
    (kernel,) = result.kernels
    assert kernel.best == min(known)
    assert kernel.best <= kernel.default
    assert kernel.ended == "the space is searched"
    trials = read_trials(tmp_path)
    assert len({t.digest for t in trials}) == len(trials) == len(known)
    assert trials[0].choices == {c.name: c.default for c in loop.choices}


def test_a_killed_session_goes_on_and_gives_the_same_sequence(loop: Task, tmp_path: Path) -> None:
    def work() -> None:
        _tune(loop, tmp_path / "killed", trials=100)

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    path = tmp_path / "killed" / TRIALS
    until = time.monotonic() + 600
    while not path.exists() or path.read_bytes().count(b"\n") < 4:
        assert child.is_alive() and time.monotonic() < until
        time.sleep(0.01)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    before = path.read_bytes()
    whole = before[: before.rfind(b"\n") + 1]
    path.write_bytes(whole + b'{"key": "cut o')
    with pytest.warns(UserWarning, match="cut off"):
        _tune(loop, tmp_path / "killed", trials=10)
    assert path.read_bytes().startswith(whole)
    _tune(loop, tmp_path / "straight", trials=10)
    sequences = [
        [(t.number, t.digest, t.value) for t in read_trials(tmp_path / name)][:10]
        for name in ("killed", "straight")
    ]
    assert sequences[0] == sequences[1]
    assert len({digest for _, digest, _ in sequences[0]}) == 10


def test_what_is_done_is_not_measured_again_and_budgets_end_a_session(
    loop: Task, tmp_path: Path
) -> None:
    first = _tune(loop, tmp_path, trials=4)
    assert (first.new_trials, first.kernels[0].ended) == (4, "all trials are made")
    again = _tune(loop, tmp_path, trials=4)
    assert again.new_trials == 0
    assert again.kernels[0].best == first.kernels[0].best
    assert _tune(loop, tmp_path, trials=99, max_time_s=1e-3).kernels[0].ended == "the time is over"
    early = _tune(loop, tmp_path, trials=99, early_stop=1).kernels[0].ended
    assert early.startswith("nothing better in")


def test_a_wrong_candidate_is_recorded_and_never_best(loop: Task, tmp_path: Path) -> None:
    """All candidates but the default leave out the last statement of their loop."""

    def doctored(schedule: s_tir.Schedule, decided: Any) -> Candidate:
        made = loop._make(schedule, decided)
        kernel = made.kernels[-1]
        lines = kernel.body.splitlines(keepends=True)
        last = max(i for i, line in enumerate(lines) if "out" in line and " = " in line)
        body = "".join(lines[:last] + lines[last + 1 :])
        return replace(made, kernels=(replace(kernel, body=body),))

    (kernel,) = _tune(replace(loop, _make=doctored), tmp_path, trials=5).kernels
    assert (kernel.best, kernel.best_number, kernel.failed) == (kernel.default, 0, 4)
    assert all(t.reason.startswith("wrong: ") for t in read_trials(tmp_path)[1:])


def test_tasks_are_chosen_by_number(loop: Task) -> None:
    tasks = [replace(loop, index=i) for i in range(6)]
    assert [t.index for t in select(tasks, "0,2-4")] == [0, 2, 3, 4]
    assert len(select(tasks, "all")) == 6
    for text in ("7", "3-9", "x", "4-2", ""):
        with pytest.raises(ParameterError, match="there is no task"):
            select(tasks, text)
