"""Generated code must not grow unseen: executed instructions and bytes against the baseline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import microddsp
from benchmarks.device import baseline
from benchmarks.device.__main__ import measure_ours
from benchmarks.device.job import Job, Result
from benchmarks.device.jobs import all_jobs
from microddsp.micro.boards import find_board
from microddsp.micro.targets import find_target

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    folder: Path = tmp_path_factory.mktemp("bench")
    return measure_ours(all_jobs(), baseline.BOARD, folder)


def test_every_job_gives_what_numpy_and_scipy_give(results: list[Result]) -> None:
    assert [r.job for r in results if not r.correct] == []


def test_no_instruction_count_or_size_is_above_the_baseline(results: list[Result]) -> None:
    known = baseline.read()
    if baseline.compiler() != known["compiler"]:
        pytest.skip(f"the baseline was measured with GCC {known['compiler']}")
    lines = baseline.grown(results, known["rows"])
    command = f"python -m benchmarks.device --no-peers --boards {baseline.BOARD} --update-baseline"
    assert not lines, "\n".join([*lines, f"if that is meant: {command}"])


def test_a_figure_above_the_margin_is_found(results: list[Result]) -> None:
    row = results[0]
    rows = {row.job: {figure: getattr(row, figure) for figure in baseline.FIGURES}}
    assert baseline.grown([row], rows) == []
    assert baseline.grown([replace(row, instructions=row.instructions * 1.03)], rows) != []
    assert baseline.grown([replace(row, ram_bytes=row.ram_bytes * 2)], rows) != []
    assert baseline.grown([row], {}) == [f"{row.job}: not in the baseline"]


JOBS = [job for job in all_jobs() if job.module is not None]


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.key)
def test_every_job_is_that_of_pytorch_and_equal_on_this_computer(job: Job) -> None:
    assert job.module is not None
    module = job.module()
    x = torch.from_numpy(np.concatenate(list(job.signal), axis=-1))
    example = torch.zeros(job.signal.shape[1:])
    model = microddsp.compile(
        module, example, target=find_target(find_board(baseline.BOARD).target), name="m"
    )
    assert microddsp.verify(module, model, x, board=baseline.BOARD).passed
    here = np.atleast_1d(model.run(x))
    with microddsp.open_board(baseline.BOARD, model) as board:
        there = np.atleast_1d(board.run(x))
    assert here.tobytes() == there.tobytes()
