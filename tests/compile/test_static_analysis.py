"""What gcc -fanalyzer and cppcheck say of the generated C: nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

import microddsp
from benchmarks.device.jobs import all_jobs

# One of each kind of code: loops, blocks of one, a FIR, events, convolutions, spectra, whole
# pipelines.
KEYS = ("chain-64", "sos4-any-1", "fir32-linear-phase-32", "counter-sparse", "plops", "log-mel-net")
JOBS = {job.key: job for job in all_jobs() if job.key in KEYS}
ANALYZER = ["gcc", "-std=c99", "-O1", "-fanalyzer", "-Wall", "-Wextra", "-Werror", "-c"]
CPPCHECK = [
    *("cppcheck", "--quiet", "--error-exitcode=1", "--std=c99", "--inline-suppr"),
    *("--enable=warning,performance,portability", "--suppress=missingIncludeSystem"),
]


@pytest.fixture(
    scope="module",
    params=[pytest.param(k, marks=[pytest.mark.slow] if k == "log-mel-net" else []) for k in KEYS],
)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    job, made = JOBS[request.param], tmp_path_factory.mktemp("c")
    assert job.module is not None
    example = torch.zeros(job.signal.shape[1:])
    model = microddsp.compile(job.module(), example, target="cortex-m4f", name="m")
    for name, text in model.sources.items():
        (made / name).write_text(text)
    return made


def test_gcc_finds_no_path_to_an_error(folder: Path) -> None:
    done = subprocess.run([*ANALYZER, "m.c"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_cppcheck_finds_nothing(folder: Path) -> None:
    done = subprocess.run([*CPPCHECK, "m.c"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]


@pytest.mark.parametrize("tool", ["gcc", "cppcheck"])
def test_a_read_past_the_end_would_be_found(tool: str, tmp_path: Path) -> None:
    (tmp_path / "m.c").write_text(
        "#include <stdlib.h>\nint last(void);\nint last(void)\n{\n    int *p = malloc(8);\n"
        "    int v;\n    if (!p) { return 0; }\n    p[0] = 1;\n    free(p);\n    v = p[0];\n"
        "    return v;\n}\n"
    )
    command = ANALYZER if tool == "gcc" else CPPCHECK
    done = subprocess.run([*command, "m.c"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
