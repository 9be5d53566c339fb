"""The job in plain C: as a function for any coefficients, and with the coefficients written in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.device.job import Code, Job
from benchmarks.device.peers.c_text import array, define
from microddsp.micro.targets import Target

_HEADER = """void job_process(const float *from, void *to);
#define JOB_INIT()
#define JOB_PROCESS(from, to) job_process((from), (to))
"""

# Attack and release, then a counter with two thresholds and a refractory time.
EVENT_COUNTER = """
static int armed, wait, count;
static inline void step(float level)
{
    if (wait > 0) {
        --wait;
    }
    if (armed) {
        if (level > HIGH && wait == 0) {
            ++count;
            armed = 0;
            wait = REFRACTORY + 1;
        }
    } else if (level < LOW) {
        armed = 1;
    }
}
"""
ENVELOPE_AND_COUNTER = (
    EVENT_COUNTER
    + """
static float level;
static void follow_and_count(const float *from, int *to, int n)
{
    for (int i = 0; i < n; i++) {
        float difference = from[i] - level;
        level += (difference > 0.0f ? ATTACK : RELEASE) * difference;
        step(level);
    }
    *to = count;
}
"""
)

# As a function of a library: any number of sections, coefficients known when it runs.
_GENERAL_CASCADE = """
__attribute__((noipa)) static void cascade(const float (*c)[5], float (*z)[2], int sections,
                                           const float *from, float *to, int n)
{
    for (int i = 0; i < n; i++) {
        float x = from[i];
        for (int s = 0; s < sections; s++) {
            float y = c[s][0] * x + z[s][0];
            z[s][0] = c[s][1] * x - c[s][3] * y + z[s][1];
            z[s][1] = c[s][2] * x - c[s][4] * y;
            x = y;
        }
        to[i] = x;
    }
}
"""
# For this job alone: the compiler sees every number and may keep the states in registers.
_OWN_CASCADE = """
static inline void cascade(const float (*c)[5], float (*states)[2], int sections,
                           const float *from, float *to, int n)
{
    float z[SECTIONS][2];
    for (int s = 0; s < SECTIONS; s++) {
        z[s][0] = states[s][0];
        z[s][1] = states[s][1];
    }
    for (int i = 0; i < n; i++) {
        float x = from[i];
        for (int s = 0; s < SECTIONS; s++) {
            float y = coefficients[s][0] * x + z[s][0];
            z[s][0] = coefficients[s][1] * x - coefficients[s][3] * y + z[s][1];
            z[s][1] = coefficients[s][2] * x - coefficients[s][4] * y;
            x = y;
        }
        to[i] = x;
    }
    for (int s = 0; s < SECTIONS; s++) {
        states[s][0] = z[s][0];
        states[s][1] = z[s][1];
    }
}
"""


def code(job: Job, _target: Target, _folder: Path) -> Code | None:
    """Plain C for any coefficients."""
    return _code(job, _GENERAL)


def own_code(job: Job, _target: Target, _folder: Path) -> Code | None:
    """Plain C with the job's numbers written in."""
    return _code(job, _OWN)


def _code(job: Job, kinds: dict[str, Callable[[Job], str]]) -> Code | None:
    make = kinds.get(job.kind)
    if make is None:
        return None
    return Code(_HEADER, {"job.c": '#include "job.h"\n#include <math.h>\n' + make(job)})


def _coefficients(job: Job) -> str:
    sos = np.asarray(job.parameters["sos"], "float64")
    rows = np.column_stack([sos[:, :3], sos[:, 4:]])
    table = array("coefficients", rows).replace("[]", "[][5]")
    return f"#define SECTIONS {len(sos)}\n{table}"


def _thresholds(job: Job) -> str:
    names = [n for n in ("attack", "release", "high", "low") if n in job.parameters]
    text = "".join(define(name.upper(), job.parameters[name]) for name in names)
    return text + f"#define REFRACTORY {job.parameters['refractory']}\n"


def _sos(job: Job, cascade: str) -> str:
    return f"""{_coefficients(job)}{cascade}
static float states[SECTIONS][2];
void job_process(const float *from, void *to)
{{
    cascade(coefficients, states, SECTIONS, from, to, {job.block});
}}
"""


def _chain(job: Job, cascade: str) -> str:
    return f"""{_coefficients(job)}{_thresholds(job)}{cascade}{ENVELOPE_AND_COUNTER}
static float states[SECTIONS][2];
static float filtered[{job.block}];
void job_process(const float *from, void *to)
{{
    cascade(coefficients, states, SECTIONS, from, filtered, {job.block});
    for (int i = 0; i < {job.block}; i++) {{
        filtered[i] = fabsf(filtered[i]);
    }}
    follow_and_count(filtered, to, {job.block});
}}
"""


def _counter(job: Job) -> str:
    return f"""{_thresholds(job)}{EVENT_COUNTER}
void job_process(const float *from, void *to)
{{
    for (int i = 0; i < {job.block}; i++) {{
        step(from[i]);
    }}
    *(int *)to = count;
}}
"""


def _fir(job: Job) -> str:
    taps = np.asarray(job.parameters["taps"])
    return f"""{array("taps", taps)}
#define TAPS {len(taps)}
static float line[TAPS - 1 + {job.block}];
void job_process(const float *from, void *to)
{{
    float *y = to;
    for (int i = 0; i < {job.block}; i++) {{
        line[TAPS - 1 + i] = from[i];
    }}
    for (int i = 0; i < {job.block}; i++) {{
        float sum = 0.0f;
        for (int k = 0; k < TAPS; k++) {{
            sum += taps[k] * line[TAPS - 1 + i - k];
        }}
        y[i] = sum;
    }}
    for (int i = 0; i < TAPS - 1; i++) {{
        line[i] = line[{job.block} + i];
    }}
}}
"""


# A convolution layer with zeros around the signal and what is negative cut off, and a dense layer.
_LAYERS = """
{attribute} void convolve(const float *w, const float *b, int ci, int co, int k, const float *from,
                          float *to, int n)
{{
    for (int o = 0; o < co; o++) {{
        for (int i = 0; i < n; i++) {{
            float sum = b[o];
            for (int c = 0; c < ci; c++) {{
                for (int j = 0; j < k; j++) {{
                    int at = i + j - k / 2;
                    if (at >= 0 && at < n) {{
                        sum += w[(o * ci + c) * k + j] * from[c * n + at];
                    }}
                }}
            }}
            to[o * n + i] = sum > 0.0f ? sum : 0.0f;
        }}
    }}
}}
"""


def _conv_net(job: Job, attribute: str) -> str:
    points = job.parameters["points"]
    tables = "".join(array(name, values) for name, values in job.parameters["weights"].items())
    return f"""{tables}{_LAYERS.format(attribute=attribute)}
static float first[8 * {points}];
static float second[16 * {points}];
void job_process(const float *from, void *to)
{{
    float *y = to;
    float means[16];
    convolve(w0, b0, 1, 8, 5, from, first, {points});
    convolve(w1, b1, 8, 16, 5, first, second, {points});
    for (int o = 0; o < 16; o++) {{
        means[o] = 0.0f;
        for (int i = 0; i < {points}; i++) {{
            means[o] += second[o * {points} + i];
        }}
        means[o] /= {points}.0f;
    }}
    for (int o = 0; o < 4; o++) {{
        y[o] = b2[o];
        for (int i = 0; i < 16; i++) {{
            y[o] += w2[o * 16 + i] * means[i];
        }}
    }}
}}
"""


_GENERAL: dict[str, Callable[[Job], str]] = {
    "sos": lambda job: _sos(job, _GENERAL_CASCADE),
    "chain": lambda job: _chain(job, _GENERAL_CASCADE),
    "counter": _counter,
    "fir": _fir,
    "conv net": lambda job: _conv_net(job, "__attribute__((noipa)) static"),
}
_OWN: dict[str, Callable[[Job], str]] = {
    "sos": lambda job: _sos(job, _OWN_CASCADE),
    "chain": lambda job: _chain(job, _OWN_CASCADE),
    "conv net": lambda job: _conv_net(job, "static inline"),
}
