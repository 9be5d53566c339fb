"""Code that microddsp makes for a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import microddsp
from benchmarks.device.job import Code, Job
from microddsp.micro.targets import Target

_HEADER = """#include "model.h"
extern model_t model;
extern unsigned char workspace[];
#define JOB_INIT() (void)model_init(&model, workspace, MODEL_WORKSPACE_BYTES)
#define JOB_PROCESS(from, to) (void)model_process(&model, (from), (to))
"""
_STATE = """#include "model.h"
model_t model;
unsigned char workspace[MODEL_WORKSPACE_BYTES + 1]
    __attribute__((aligned(MODEL_WORKSPACE_ALIGN)));
"""


def code(job: Job, target: Target, records: Path | None = None) -> Code | None:
    """Compile the job's module; None if it has none. With `records` it is tuned first, in a folder
    of its own there: what that has already is not measured again.

    Raises:
        MicroddspError: It cannot be compiled.
    """
    if job.module is None:
        return None
    example = torch.zeros(job.signal.shape[1:])
    tuned: dict[str, Any] = {}
    if records is not None:
        tuned = {"tuning_records": records / job.key}
        microddsp.tune(job.module(), example, target=target, records=records / job.key, trials=100)
    model = microddsp.compile(job.module(), example, target=target, name="model", **tuned)
    return Code(_HEADER, {**model.sources, "state.c": _STATE}, ours=True)
