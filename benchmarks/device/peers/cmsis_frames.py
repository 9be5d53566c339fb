"""Frames by CMSIS-DSP: log-mel, cepstral coefficients, and a small network by matrix products."""

from __future__ import annotations

import numpy as np

from benchmarks.device.job import Job
from benchmarks.device.peers.c_text import array


def log_mel(job: Job) -> str:
    """Composed: the library's own arm_mfcc_f32 takes magnitudes and scales twice besides."""
    dct, bands = job.parameters.get("dct"), len(job.parameters["bank"])
    if dct is None:
        return f"""{_features(job)}
void job_process(const float *from, void *to)
{{
    features(from, to);
}}
"""
    return f"""{_features(job)}{array("dct", dct)}
static const arm_matrix_instance_f32 matrix = {{{len(dct)}, {bands}, (float *)dct}};
static float mel[{bands}];
void job_process(const float *from, void *to)
{{
    features(from, mel);
    arm_mat_vec_mult_f32(&matrix, mel, to);
}}
"""


def log_mel_net(job: Job) -> str:
    """The features, then the network over them."""
    return f"""{_features(job)}{_network(job)}
static float mel[{len(job.parameters["bank"])}];
void job_process(const float *from, void *to)
{{
    features(from, mel);
    answer(mel, to);
}}
"""


def net(job: Job) -> str:
    """The network alone."""
    return f"""{_network(job)}
void job_init(void)
{{
}}
void job_process(const float *from, void *to)
{{
    answer(from, to);
}}
"""


def _features(job: Job) -> str:
    bank = np.asarray(job.parameters["bank"])
    used = [np.flatnonzero(row) for row in bank]
    lengths = ", ".join(str(len(bins)) for bins in used)
    starts = ", ".join(str(bins[0]) for bins in used)
    weights = np.concatenate([row[bins] for row, bins in zip(bank, used, strict=True)])
    return f"""{array("window", job.parameters["window"])}{array("weights", weights)}
static const unsigned char starts[] = {{{starts}}};
static const unsigned char lengths[] = {{{lengths}}};
static arm_rfft_fast_instance_f32 transform;
static float frame[{job.block}];
static float spectrum[{job.block}];
void job_init(void)
{{
    (void)arm_rfft_fast_init_{job.block}_f32(&transform);
}}
static inline void features(const float *from, float *bands)
{{
    const float *weight = weights;
    arm_mult_f32(from, window, frame, {job.block}u);
    arm_rfft_fast_f32(&transform, frame, spectrum, 0u);
    spectrum[1] = 0.0f;
    arm_cmplx_mag_squared_f32(spectrum, frame, {job.block // 2}u);
    for (int i = 0; i < {len(bank)}; i++) {{
        arm_dot_prod_f32(&frame[starts[i]], weight, lengths[i], &bands[i]);
        weight += lengths[i];
    }}
    arm_offset_f32(bands, {job.parameters["floor"]}f, bands, {len(bank)}u);
    arm_vlog_f32(bands, bands, {len(bank)}u);
}}
"""


def _network(job: Job) -> str:
    """Convolutions as CMSIS-NN makes them: what each output sees becomes a column of a matrix. Its
    own functions take integers only."""
    points = job.parameters["points"]
    tables = "".join(array(name, values) for name, values in job.parameters["weights"].items())
    return f"""{tables}
static float columns[8 * 5 * {points}];
static float first[8 * {points}];
static float second[16 * {points}];
static void convolve(const float *w, const float *b, int ci, int co, const float *from, float *to)
{{
    const arm_matrix_instance_f32 weights = {{co, 5 * ci, (float *)w}};
    const arm_matrix_instance_f32 seen = {{5 * ci, {points}, columns}};
    arm_matrix_instance_f32 made = {{co, {points}, to}};
    for (int c = 0; c < ci; c++) {{
        for (int j = 0; j < 5; j++) {{
            float *row = &columns[(5 * c + j) * {points}];
            int skipped = j < 2 ? 2 - j : 0;
            int last = j > 2 ? {points} + 2 - j : {points};
            arm_fill_f32(0.0f, row, skipped);
            arm_copy_f32(&from[c * {points} + skipped + j - 2], &row[skipped], last - skipped);
            arm_fill_f32(0.0f, &row[last], {points} - last);
        }}
    }}
    (void)arm_mat_mult_f32(&weights, &seen, &made);
    for (int o = 0; o < co; o++) {{
        arm_offset_f32(&to[o * {points}], b[o], &to[o * {points}], {points}u);
    }}
    arm_clip_f32(to, to, 0.0f, 3.4e38f, co * {points}u);
}}
static const arm_matrix_instance_f32 dense = {{4, 16, (float *)w2}};
static inline void answer(const float *from, float *to)
{{
    float means[16];
    convolve(w0, b0, 1, 8, from, first);
    convolve(w1, b1, 8, 16, first, second);
    for (int o = 0; o < 16; o++) {{
        arm_mean_f32(&second[o * {points}], {points}u, &means[o]);
    }}
    arm_mat_vec_mult_f32(&dense, means, to);
    arm_add_f32(to, b2, to, 4u);
}}
"""
