"""Tuning records that `compile` follows: which, and what it does about the others."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import microddsp
from microddsp import dsp
from microddsp.errors import ParameterError, RecordError
from microddsp.micro.targets import find_target
from microddsp.tuning.database import Trial, compilers_of
from microddsp.tuning.search import _listed
from microddsp.tuning.spaces import default_schedule
from microddsp.tuning.task import Task, tuning_tasks

EXAMPLE = torch.zeros(1, 64)


class Two(torch.nn.Module):
    """A loop over samples and a kernel of blocks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.filter = dsp.Bandpass(low_hz=90.0, high_hz=700.0, order=2, sample_rate_hz=8000)
        self.frames = dsp.Frames(64)
        self.linear = torch.nn.Linear(64, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.frames(self.filter(x)))


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    return {task.name: task for task in tuning_tasks(Two(), EXAMPLE)}


@pytest.fixture(scope="module")
def usual() -> str:
    return microddsp.compile(Two(), EXAMPLE).sources["model.c"]


def trial(task: Task, number: int, value: float | None, **different: object) -> Trial:
    """One of a task: the default (number 0), or one that does everything otherwise."""
    wanted = task.choices
    if number:
        wanted = [type(c)(c.name, c.values, c.values[-1]) for c in task.choices]
    schedule = default_schedule(task.workload, wanted)
    fields = {
        "key": task.key,
        "kernel": task.name,
        "number": number,
        "digest": str(number),
        "metric": "cycles",
        "value": value,
        "reason": "",
        "cpu": "cortex-m4f",
        "compilers": compilers_of(find_target("cortex-m4f")),
        "board": "mps2-an386",
        "seed": 0,
        "at": "",
        "choices": dict(task.candidate(schedule).choices),
        "trace": _listed(schedule.trace.as_json()),
    }
    return Trial(**(fields | different))


def written(folder: Path, *trials: Trial, end: str = "") -> Path:
    lines = [json.dumps(t.to_json()) + "\n" for t in trials]
    (folder / "trials.jsonl").write_text("".join(lines) + end)
    return folder


def kernels_of(source: str) -> dict[str, str]:
    """The C of each kernel, by its name."""
    found = re.split(r"^static void (?=model_k\d)", source, flags=re.MULTILINE)[1:]
    return {text.split("(")[0]: text.split("\n}\n")[0] for text in found}


@pytest.mark.parametrize("name", ["sample_loop0", "matmul_add"])
def test_a_record_changes_its_kernel_and_no_other(
    tmp_path: Path, tasks: dict[str, Task], usual: str, name: str
) -> None:
    folder = written(tmp_path, trial(tasks[name], 0, 10.0), trial(tasks[name], 1, 8.0))
    model = microddsp.compile(Two(), EXAMPLE, tuning_records=folder)
    before, after = kernels_of(usual), kernels_of(model.sources["model.c"])
    assert list(before) == list(after)
    (changed,) = [kernel for kernel in before if before[kernel] != after[kernel]]
    (row,) = model.tuned
    assert changed == row.kernel
    assert (row.metric, row.value, row.usual, row.gain) == ("cycles", 8.0, 10.0, pytest.approx(0.2))
    assert row.choices["fma"] == "no"


def test_a_default_that_is_best_stays(tmp_path: Path, tasks: dict[str, Task], usual: str) -> None:
    task = tasks["matmul_add"]
    folder = written(tmp_path, trial(task, 0, 10.0), trial(task, 1, 11.0))
    model = microddsp.compile(Two(), EXAMPLE, tuning_records=folder)
    assert model.sources["model.c"] == usual
    assert model.tuned[0].gain == 0.0


def test_failed_trials_count_for_nothing(
    tmp_path: Path, tasks: dict[str, Task], usual: str
) -> None:
    failed = trial(tasks["sample_loop0"], 1, None, reason="it hangs")
    folder = written(tmp_path, failed)
    with pytest.warns(UserWarning, match="no tuning record fits"):
        model = microddsp.compile(Two(), EXAMPLE, tuning_records=folder)
    assert model.sources["model.c"] == usual


def test_records_of_other_compilers_are_left_out_with_a_warning(
    tmp_path: Path, tasks: dict[str, Task], usual: str
) -> None:
    others = compilers_of(find_target("cortex-m4f")) | {"gcc": "4.8.1"}
    folder = written(tmp_path, trial(tasks["sample_loop0"], 1, 8.0, compilers=others))
    with pytest.warns(UserWarning, match=r"gcc 4\.8\.1 are left out"):
        model = microddsp.compile(Two(), EXAMPLE, tuning_records=folder)
    assert model.sources["model.c"] == usual
    assert model.tuned == ()


def test_a_line_that_was_cut_off_loses_nothing_else(tmp_path: Path, tasks: dict[str, Task]) -> None:
    folder = written(tmp_path, trial(tasks["sample_loop0"], 1, 8.0), end='{"format": 1, "key": "a')
    with pytest.warns(UserWarning, match="cut off"):
        model = microddsp.compile(Two(), EXAMPLE, tuning_records=folder)
    assert [row.value for row in model.tuned] == [8.0]


def test_c_takes_no_record_of_object_code(
    tmp_path: Path, tasks: dict[str, Task], usual: str
) -> None:
    one = trial(tasks["sample_loop0"], 1, 8.0, choices={"code": "llvm"})
    with pytest.warns(UserWarning, match="no tuning record fits"):
        model = microddsp.compile(Two(), EXAMPLE, tuning_records=written(tmp_path, one))
    assert model.sources["model.c"] == usual


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no tuning records"):
        microddsp.compile(Two(), EXAMPLE, tuning_records=tmp_path)
    with pytest.raises(ParameterError, match="cannot emit"):
        microddsp.compile(Two(), EXAMPLE, emit="cobol", tuning_records=tmp_path)
