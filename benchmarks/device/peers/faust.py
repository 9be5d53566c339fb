"""Faust: the C that its compiler writes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.device.job import Code, Job
from microddsp.errors import BoardError
from microddsp.micro.targets import Target

# The program's state is a type that only its own file knows.
_HEADER = """void job_init(void);
void job_process(const float *from, void *to);
#define JOB_INIT() job_init()
#define JOB_PROCESS(from, to) job_process((from), (to))
"""
_SOURCE = """#include "CInterface.h"
#include "job.h"
{code}
static filter job;
void job_init(void)
{{
    initfilter(&job, 8000);
}}
void job_process(const float *from, void *to)
{{
    FAUSTFLOAT *input = (FAUSTFLOAT *)from;
    FAUSTFLOAT *output = to;
    computefilter(&job, {block}, &input, &output);
}}
"""


def code(job: Job, _target: Target, folder: Path) -> Code | None:
    """C from a Faust program for the job.

    Raises:
        BoardError: Faust is missing, or refuses the program.
    """
    make = _KINDS.get(job.kind)
    if make is None:
        return None
    faust = shutil.which("faust")
    if faust is None:
        raise BoardError("faust is not on PATH", hint="install the Debian package faust")
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / f"{job.key}.dsp"
    program.write_text(f'import("stdfaust.lib");\nprocess = {make(job)};\n')
    command = [faust, "-lang", "c", "-cn", "filter", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BoardError(f"faust failed: {done.stderr.strip()[-300:]}", where=job.key)
    root = subprocess.run([faust, "--includedir"], capture_output=True, text=True, check=True)
    # copied: the folder that it lies in holds the headers of the computer's own C library too
    interface = (Path(root.stdout.strip()) / "faust" / "gui" / "CInterface.h").read_text()
    source = _SOURCE.format(code=done.stdout, block=job.block)
    return Code(_HEADER, {"job.c": source, "CInterface.h": interface})


def _sos(job: Job) -> str:
    sos = np.asarray(job.parameters["sos"], "float64")
    return " : ".join(
        f"fi.tf2({', '.join(f'({value!r})' for value in map(float, row[[0, 1, 2, 4, 5]]))})"
        for row in sos
    )


def _fir(job: Job) -> str:
    taps = np.asarray(job.parameters["taps"], "float64")
    return f"fi.fir(({', '.join(f'({value!r})' for value in map(float, taps))}))"


_KINDS: dict[str, Callable[[Job], str]] = {"sos": _sos, "fir": _fir}
