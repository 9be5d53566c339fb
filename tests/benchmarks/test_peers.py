"""The other libraries' code is what the frame of the jobs expects; that needs no library."""

from __future__ import annotations

import pytest

from benchmarks.device.job import Job
from benchmarks.device.jobs import all_jobs
from benchmarks.device.peers.cmsis_calls import KINDS

JOBS = [job for job in all_jobs() if job.kind in KINDS]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.key)
def test_cmsis_dsp_has_a_call_to_measure_and_a_start(job: Job) -> None:
    header, text = KINDS[job.kind](job)
    assert header.count("#define JOB_PROCESS(from, to) ") == 1
    assert "void job_init(void)" in text
    assert "job_process(" not in header or "void job_process(" in text
