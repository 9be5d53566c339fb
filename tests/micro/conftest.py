"""Small models written by hand: each test says what one block does, in C."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from microddsp.micro.package.model import CompiledModel
from microddsp.micro.session import BoardSession, open_board
from microddsp.micro.targets import find_target
from microddsp.signature import InputSpec, OutputStructure, Signature, TensorSpec

BLOCK = 8

HEADER = """#ifndef PROBE_H
#define PROBE_H
#include <stddef.h>
#include <stdint.h>
#define PROBE_WORKSPACE_BYTES {workspace}u
#define PROBE_WORKSPACE_ALIGN 8u
typedef enum probe_status {{
    PROBE_OK = 0,
    PROBE_ERR_NULL = -1,
    PROBE_ERR_SIZE = -2,
    PROBE_ERR_ALIGN = -3,
    PROBE_ERR_NOT_READY = -4,
    PROBE_ERR_NONFINITE = -5
}} probe_status_t;
typedef struct probe {{
    float sum;
}} probe_t;
probe_status_t probe_init(probe_t *self, void *workspace, size_t workspace_bytes);
void probe_reset(probe_t *self);
probe_status_t probe_process(probe_t *self, const float *x, float *y);
#endif
"""

SOURCE = """#include "probe.h"
{helpers}
probe_status_t probe_init(probe_t *self, void *workspace, size_t workspace_bytes)
{{
    (void)workspace;
    self->sum = 0.0f;
    return (workspace_bytes == PROBE_WORKSPACE_BYTES) ? PROBE_OK : PROBE_ERR_SIZE;
}}
void probe_reset(probe_t *self)
{{
    self->sum = 0.0f;
}}
probe_status_t probe_process(probe_t *self, const float *x, float *y)
{{
{body}
    return PROBE_OK;
}}
"""

RUNNING_SUM = """    for (int32_t i = 0; i < 8; ++i) {
        self->sum += x[i];
        y[i] = self->sum;
    }"""

Maker = Callable[..., CompiledModel]


def make_model(
    body: str = RUNNING_SUM,
    *,
    target: str = "cortex-m4f",
    workspace: int = 0,
    block: int = BLOCK,
    helpers: str = "",
) -> CompiledModel:
    signature = Signature(
        "probe",
        (InputSpec("x", (1, block), "float32", -1),),
        (TensorSpec("y", (1, block), "float32", -1),),
        OutputStructure(names=("y",)),
        block=block,
        state_bytes=4,
        workspace_bytes=workspace,
    )
    sources = {
        "probe.h": HEADER.format(workspace=workspace),
        "probe.c": SOURCE.format(body=body, helpers=helpers),
    }
    return CompiledModel("probe", find_target(target), signature, sources)


@pytest.fixture(scope="session")
def probe() -> Maker:
    """Makes a model `probe` of one float input and output, (1, 8), from the C of its block."""
    return make_model


@pytest.fixture(scope="module")
def summing() -> Iterator[BoardSession]:
    """An open session with a model that gives the running sum of its input."""
    with open_board("mps2-an386", make_model()) as board:
        yield board


@pytest.fixture
def running() -> Callable[[int], bool]:
    """Whether a process runs; one that ended and was not collected does not."""

    def answer(pid: int) -> bool:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] != "Z"

    return answer
