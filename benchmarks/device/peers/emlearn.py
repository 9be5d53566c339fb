"""emlearn: the C headers in its Python package."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.device.job import Code, Job
from benchmarks.device.peers.c_text import array
from microddsp.errors import BoardError
from microddsp.micro.targets import Target

VERSION = "0.23.2"

_HEADER = """void job_process(const float *from, void *to);
#define JOB_INIT()
#define JOB_PROCESS(from, to) job_process((from), (to))
"""


def code(job: Job, _target: Target, folder: Path) -> Code | None:
    """Its cascade of second-order sections, a sample at a time: there is no call for a block.

    Raises:
        BoardError: The package cannot be had.
    """
    if job.kind != "sos":
        return None
    sos = np.asarray(job.parameters["sos"], "float64")
    source = f"""#include "eml_iir.h"
#include "job.h"
{array("coefficients", sos)}
static float states[{4 * len(sos)}];
void job_process(const float *from, void *to)
{{
    const EmlIIR filter = {{{len(sos)}, states, {4 * len(sos)}, coefficients, {6 * len(sos)}}};
    float *y = to;
    for (int i = 0; i < {job.block}; i++) {{
        y[i] = eml_iir_filter(filter, from[i]);
    }}
}}
"""
    return Code(_HEADER, {"job.c": source}, includes=(_headers(folder),))


@cache
def _headers(folder: Path) -> Path:
    place = folder / f"emlearn-{VERSION}"
    if not place.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check"]
        wanted = ["--no-deps", "-d", str(folder), f"emlearn=={VERSION}"]
        done = subprocess.run([*pip, *wanted], capture_output=True, text=True, check=False)
        wheels = sorted(folder.glob(f"emlearn-{VERSION}-*.whl"))
        if done.returncode != 0 or not wheels:
            raise BoardError(f"emlearn {VERSION} cannot be had: {done.stderr.strip()[-300:]}")
        with zipfile.ZipFile(wheels[0]) as packed:
            packed.extractall(place, [n for n in packed.namelist() if n.endswith(".h")])
    return (place / "emlearn").resolve()
