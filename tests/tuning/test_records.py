"""Trials stay on the disk, whole, and only one session writes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from microddsp.errors import RecordError
from microddsp.tuning.database import TRIALS, Records, Trial, best_trial, read_trials
from microddsp.tuning.show import by_kernel, plot_curves

COMPILERS = {"gcc": "12.2.1", "llvm": "22", "tvm": "1", "microddsp": "1"}
FIRST = Trial(
    key="k",
    kernel="loop",
    number=0,
    digest="d0",
    metric="cycles",
    value=100.0,
    reason="",
    cpu="cortex-m4f",
    compilers=COMPILERS,
    board="mps2-an386",
    seed=0,
    at="2020-01-01T00:00:00+00:00",
    choices={"unroll": 8},
    figures={"cycles": 100.0},
)
FASTER = replace(FIRST, number=1, digest="d1", value=80.0)
FAILED = replace(FIRST, number=2, digest="d2", value=None, reason="hangs")


def test_what_was_appended_is_read_again(tmp_path: Path) -> None:
    with Records(tmp_path / "db") as records:
        records.append([FIRST])
        records.append([FASTER, FAILED])
    assert read_trials(tmp_path / "db") == [FIRST, FASTER, FAILED]


def test_a_cut_off_line_is_left_out_and_removed_by_the_next_session(tmp_path: Path) -> None:
    with Records(tmp_path) as records:
        records.append([FIRST])
    with (tmp_path / TRIALS).open("a") as file:
        file.write('{"key": "k", "kernel"')
    with pytest.warns(UserWarning, match="cut off"):
        assert read_trials(tmp_path) == [FIRST]
    with pytest.warns(UserWarning, match="cut off"), Records(tmp_path) as records:
        records.append([FASTER])
    assert read_trials(tmp_path) == [FIRST, FASTER]


def test_a_folder_has_one_session_at_a_time(tmp_path: Path) -> None:
    with Records(tmp_path), pytest.raises(RecordError, match="another session"):
        Records(tmp_path)
    Records(tmp_path).close()


def test_a_line_that_is_no_trial_is_named(tmp_path: Path) -> None:
    (tmp_path / TRIALS).write_text('{"format": 1}\n')
    with pytest.raises(RecordError, match="line 1 is no trial"):
        read_trials(tmp_path)
    (tmp_path / TRIALS).write_text('{"format": 9}\n')
    with pytest.raises(RecordError, match="format 9"):
        read_trials(tmp_path)


def test_the_best_trial_is_that_of_the_same_compilers_and_board() -> None:
    other = replace(FIRST, value=1.0, compilers={**COMPILERS, "gcc": "13"})
    elsewhere = replace(FIRST, value=2.0, board="mine")
    trials = [other, elsewhere, FIRST, FASTER, FAILED]
    assert best_trial(trials, "k", cpu="cortex-m4f", compilers=COMPILERS) == FASTER
    assert best_trial(trials, "k", cpu="cortex-m4f", compilers=COMPILERS, board="mine") == elsewhere
    assert best_trial(trials, "k", cpu="cortex-m7", compilers=COMPILERS) is None
    assert best_trial(trials, "k", cpu="cortex-m4f", compilers=COMPILERS, metric="size") is None


def test_curves_never_rise_and_are_drawn(tmp_path: Path) -> None:
    (kernel,) = by_kernel([FIRST, FASTER, FAILED, replace(FIRST, number=3, value=90.0)])
    assert kernel.curve == [100.0, 80.0, 80.0, 80.0]
    assert kernel.gain == 1.25
    assert kernel.reasons == {"hangs": 1}
    plot_curves([kernel], tmp_path / "curve.svg")
    assert "<svg" in (tmp_path / "curve.svg").read_text()
