"""Calls of CMSIS-DSP for each kind of job; where the library has no function, plain C."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.device.job import Array, Job
from benchmarks.device.peers.c_text import array, define
from benchmarks.device.peers.cmsis_frames import log_mel, log_mel_net, net
from benchmarks.device.peers.naive import ENVELOPE_AND_COUNTER, EVENT_COUNTER

# Where the job is one call of the library, that call alone is measured.
PROCESS = """void job_process(const float *from, void *to);
#define JOB_PROCESS(from, to) job_process((from), (to))
"""


def _rows(sos: Array) -> Array:
    """Coefficients in CMSIS-DSP's order: feedback with the other sign."""
    numbers = np.asarray(sos, "float64")
    return np.column_stack([numbers[:, :3], -numbers[:, 4:]])


def _sections(job: Job) -> str:
    sos = job.parameters["sos"]
    return array("coefficients", _rows(sos)) + (
        f"#define SECTIONS {len(sos)}u\nstatic float states[2u * SECTIONS];\n"
        "arm_biquad_cascade_df2T_instance_f32 filter;\n"
    )


def _sos(job: Job) -> tuple[str, str]:
    header = f"""extern arm_biquad_cascade_df2T_instance_f32 filter;
#define JOB_PROCESS(from, to) arm_biquad_cascade_df2T_f32(&filter, (from), (to), {job.block}u)
"""
    text = f"""{_sections(job)}
void job_init(void)
{{
    arm_biquad_cascade_df2T_init_f32(&filter, SECTIONS, coefficients, states);
}}
"""
    return header, text


def _chain(job: Job) -> tuple[str, str]:
    """The library has the filter and the rectifier; the rest is plain C."""
    constants = _defines(job, "attack", "release", "high", "low")
    text = f"""{_sections(job)}{constants}
#define REFRACTORY {job.parameters["refractory"]}
{ENVELOPE_AND_COUNTER}
static float filtered[{job.block}];
void job_init(void)
{{
    arm_biquad_cascade_df2T_init_f32(&filter, SECTIONS, coefficients, states);
}}
void job_process(const float *from, void *to)
{{
    arm_biquad_cascade_df2T_f32(&filter, from, filtered, {job.block}u);
    arm_abs_f32(filtered, filtered, {job.block}u);
    follow_and_count(filtered, to, {job.block});
}}
"""
    return PROCESS, text


def _defines(job: Job, *names: str) -> str:
    return "".join(define(name.upper(), job.parameters[name]) for name in names)


def _plops(job: Job) -> tuple[str, str]:
    """Band after band: filter, rectifier, envelope; then their weighted sum."""
    filters = job.parameters["filters"]
    count, sections = len(filters), len(filters[0])
    tables = array("coefficients", np.stack([_rows(sos) for sos in filters]))
    text = f"""{tables}{array("weights", job.parameters["weights"])}
{_defines(job, "attack", "release", "high", "low")}
#define REFRACTORY {job.parameters["refractory"]}
{EVENT_COUNTER}
static float states[{count}][{2 * sections}];
static float levels[{count}];
static arm_biquad_cascade_df2T_instance_f32 filters[{count}];
static float band[{job.block}];
static float mix[{job.block}];
void job_init(void)
{{
    for (int b = 0; b < {count}; b++) {{
        arm_biquad_cascade_df2T_init_f32(&filters[b], {sections}u,
                                         &coefficients[b * {5 * sections}], states[b]);
    }}
}}
void job_process(const float *from, void *to)
{{
    arm_fill_f32(0.0f, mix, {job.block}u);
    for (int b = 0; b < {count}; b++) {{
        float level = levels[b];
        arm_biquad_cascade_df2T_f32(&filters[b], from, band, {job.block}u);
        arm_abs_f32(band, band, {job.block}u);
        for (int i = 0; i < {job.block}; i++) {{
            float difference = band[i] - level;
            level += (difference > 0.0f ? ATTACK : RELEASE) * difference;
            mix[i] += weights[b] * level;
        }}
        levels[b] = level;
    }}
    for (int i = 0; i < {job.block}; i++) {{
        step(mix[i]);
    }}
    *(int *)to = count;
}}
"""
    return PROCESS, text


def _heart(job: Job) -> tuple[str, str]:
    """Filter and rectifier are the library's; the filter starts as if the first sample had been
    there for ever."""
    numbers = job.parameters
    rates = "".join(
        define(f"{name}_{way}".upper(), value)
        for name in ("fast", "slow")
        for way, value in zip(("attack", "release"), numbers[name], strict=True)
    )
    text = f"""{_sections(job)}{rates}{_defines(job, "high", "low", "off")}
#define REFRACTORY {numbers["refractory"]}
{array("settled", numbers["settled"])}{EVENT_COUNTER}
static float band[{job.block}];
static float level, usual;
static int started;
void job_init(void)
{{
    arm_biquad_cascade_df2T_init_f32(&filter, SECTIONS, coefficients, states);
}}
void job_process(const float *from, void *to)
{{
    if (!started) {{
        arm_scale_f32(settled, from[0], states, 2u * SECTIONS);
        started = 1;
    }}
    arm_biquad_cascade_df2T_f32(&filter, from, band, {job.block}u);
    arm_abs_f32(band, band, {job.block}u);
    for (int i = 0; i < {job.block}; i++) {{
        float difference = band[i] - level;
        level += (difference > 0.0f ? FAST_ATTACK : FAST_RELEASE) * difference;
        difference = level - usual;
        usual += (difference > 0.0f ? SLOW_ATTACK : SLOW_RELEASE) * difference;
        float above = usual > OFF ? usual - OFF : 0.0f;
        step(level / (above + OFF) * (above < 1.0f ? above : 1.0f));
    }}
    *(int *)to = count;
}}
"""
    return PROCESS, text


def _fir(job: Job) -> tuple[str, str]:
    taps = np.asarray(job.parameters["taps"])
    header = f"""extern arm_fir_instance_f32 filter;
#define JOB_PROCESS(from, to) arm_fir_f32(&filter, (from), (to), {job.block}u)
"""
    text = f"""{array("taps", taps[::-1])}
#ifdef ARM_MATH_MVEF /* Helium keeps working memory in front of the state */
static float states[{len(taps) + 2 * job.block - 1}];
#else
static float states[{len(taps) + job.block - 1}];
#endif
arm_fir_instance_f32 filter;
void job_init(void)
{{
    arm_fir_init_f32(&filter, {len(taps)}u, taps, states, {job.block}u);
}}
"""
    return header, text


def unpacked(packed: Array) -> Array:
    """Real and imaginary parts of all bins; the library puts the last bin behind the first."""
    zero = np.zeros((len(packed), 1), packed.dtype)
    return np.hstack([packed[:, :1], zero, packed[:, 2:], packed[:, 1:2], zero])


def _rfft(job: Job) -> tuple[str, str]:
    header = """extern arm_rfft_fast_instance_f32 transform;
#define JOB_PROCESS(from, to) arm_rfft_fast_f32(&transform, (float *)(from), (to), 0u)
"""
    text = f"""arm_rfft_fast_instance_f32 transform;
void job_init(void)
{{
    (void)arm_rfft_fast_init_{job.block}_f32(&transform);
}}
"""
    return header, text


def _whole(make: Callable[[Job], str]) -> Callable[[Job], tuple[str, str]]:
    return lambda job: (PROCESS, make(job))


# What a job's header declares, and the code.
KINDS: dict[str, Callable[[Job], tuple[str, str]]] = {
    "sos": _sos,
    "chain": _chain,
    "plops": _plops,
    "heart": _heart,
    "fir": _fir,
    "rfft": _rfft,
    "log-mel": _whole(log_mel),
    "log-mel net": _whole(log_mel_net),
    "conv net": _whole(net),
}
