"""Code that microddsp makes for a job."""

from __future__ import annotations

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


def code(job: Job, target: Target) -> Code | None:
    """Compile the job's module; None if it has none.

    Raises:
        MicroddspError: It cannot be compiled.
    """
    if job.module is None:
        return None
    example = torch.zeros(job.signal.shape[1:])
    model = microddsp.compile(job.module(), example, target=target, name="model")
    return Code(_HEADER, {**model.sources, "state.c": _STATE}, ours=True)
