"""Models as a firmware has them: several, several instances, one arena, bad and silent input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import microddsp
from microddsp import dsp
from microddsp.micro.package.model import CompiledModel
from tests.device_program import run_on_device

BLOCK, BLOCKS = 32, 12

MAIN = """
#include <string.h>
#include "left.h"
#include "right.h"
static union {
    unsigned char left[LEFT_WORKSPACE_BYTES];
    unsigned char right[RIGHT_WORKSPACE_BYTES];
    uint64_t align;
} arena;
static left_t lefts[2];
static right_t rights[2];
static float signal[2][12][LEFT_INPUT_LEN];
static struct { float left[12][LEFT_OUT_LEN]; float right[12][RIGHT_OUT_LEN]; } answers[2];
int main(void)
{
    READ(signal);
    for (int i = 0; i < 2; ++i) {
        if (left_init(&lefts[i], &arena, sizeof arena) != LEFT_OK) { return 1; }
        if (right_init(&rights[i], &arena, sizeof arena) != RIGHT_OK) { return 2; }
    }
    if (left_init(&lefts[0], &arena, LEFT_WORKSPACE_BYTES - 1u) != LEFT_ERR_SIZE) { return 3; }
    if (left_init(&lefts[0], arena.left + 4, LEFT_WORKSPACE_BYTES) != LEFT_ERR_ALIGN) { return 4; }
    if (left_init(&lefts[0], &arena, sizeof arena) != LEFT_OK) { return 5; }
    for (int k = 0; k < 12; ++k) {
        for (int i = 0; i < 2; ++i) {
            (void)memset(&arena, 0xff, sizeof arena); /* nothing in it lasts */
            if (left_process(&lefts[i], signal[i][k], answers[i].left[k]) != LEFT_OK) { return 6; }
            if (right_process(&rights[1 - i], signal[i][k], answers[i].right[k]) != RIGHT_OK) {
                return 7;
            }
        }
    }
    lefts[1].ready = LEFT_ABI_VERSION + 1u; /* an object of another version of the model */
    WRITE(answers);
    if (left_process(&lefts[1], signal[0][0], answers[0].left[0]) != LEFT_ERR_NOT_READY) {
        return 8;
    }
    return 0;
}
"""


def pair() -> list[CompiledModel]:
    torch.manual_seed(0)
    left = torch.nn.Sequential(*(dsp.FIR(torch.randn(taps) / 4) for taps in (17, 9)))
    right = torch.nn.Sequential(dsp.Frames(48, 32), torch.nn.Linear(48, 5), torch.nn.Tanh())
    return [
        microddsp.compile(module, torch.zeros(1, BLOCK), name=name)
        for name, module in (("left", left), ("right", right))
    ]


@pytest.mark.qemu
def test_two_models_and_four_instances_share_one_arena_on_a_device(tmp_path: Path) -> None:
    models = pair()
    assert all(model.signature.workspace_bytes for model in models)
    x = np.random.default_rng(0).standard_normal((2, BLOCKS * BLOCK)).astype("float32")
    said = np.frombuffer(run_on_device(tmp_path, models, MAIN, x.tobytes()), "float32")
    left, right = models
    for i, answer in enumerate(said.reshape(2, -1)):
        size = left.signature.outputs[0].elements * BLOCKS
        for model, found in ((left, answer[:size]), (right, answer[size:])):
            model.reset()
            wanted = model.run(x[i : i + 1])
            rows = wanted.T if model is left else wanted
            np.testing.assert_allclose(found, rows.ravel(), rtol=1e-5, atol=1e-6)


BAD = """
#include "plops.h"
static plops_t model, fresh;
static float signal[4][PLOPS_INPUT_LEN];
static float answers[2][PLOPS_OUT_LEN];
int main(void)
{
    READ(signal);
    if (plops_init(&model, 0, 0u) != PLOPS_OK) { return 1; }
    if (plops_init(&fresh, 0, 0u) != PLOPS_OK) { return 1; }
    if (plops_process(&model, signal[0], answers[0]) != PLOPS_OK) { return 2; }
    if (plops_process(&model, signal[1], answers[0]) != PLOPS_ERR_NONFINITE) { return 3; }
    if (plops_process(&model, signal[2], answers[0]) != PLOPS_ERR_NONFINITE) { return 4; }
    if (plops_process(&model, signal[3], answers[0]) != PLOPS_OK) { return 5; }
    if (plops_process(&fresh, signal[3], answers[1]) != PLOPS_OK) { return 6; }
    WRITE(answers);
    return 0;
}
"""


def smoothing() -> torch.nn.Module:
    return torch.nn.Sequential(
        dsp.Bandpass(400.0, 900.0, 4, sample_rate_hz=8000),
        dsp.Envelope(0.002, 0.05, sample_rate_hz=8000),
    )


@pytest.mark.qemu
@pytest.mark.parametrize("target", ["cortex-m4f", "cortex-m3"])
def test_a_burst_of_nan_costs_its_blocks_and_no_other_on_a_device(
    target: str, tmp_path: Path
) -> None:
    """The states are reset, the error is told, the next block is that of a fresh instance."""
    model = microddsp.compile(smoothing(), torch.zeros(1, BLOCK), target=target, name="plops")
    signal = np.random.default_rng(0).standard_normal((4, BLOCK)).astype("float32")
    signal[1, 3:20] = np.nan
    signal[2, BLOCK - 1] = np.inf
    after, fresh = np.frombuffer(
        run_on_device(tmp_path, [model], BAD, signal.tobytes()), "float32"
    ).reshape(2, -1)
    np.testing.assert_array_equal(after, fresh)
    assert np.isfinite(after).all() and after.any()


@pytest.mark.qemu
def test_a_million_silent_samples_after_a_burst_change_nothing() -> None:
    """States fade below the smallest normal number: no count appears, no instruction is added."""
    block = 4000
    chain = torch.nn.Sequential(
        *smoothing(), dsp.EventCounter(0.1, 0.5, refractory_s=0.15, sample_rate_hz=8000)
    )
    model = microddsp.compile(chain, torch.zeros(1, block), name="plops")
    burst = np.random.default_rng(0).standard_normal((1, block)).astype("float32")
    silence = np.zeros((1, 1_000_000), "float32")
    with microddsp.open_board("mps2-an386", model) as board:
        counts = board.run(np.concatenate([burst, silence], axis=1))
        assert (counts == counts[0, 0]).all() and counts[0, 0] == 1
        silent = board.time(silence[:, : 10 * block])
        faded = board.time(np.concatenate([burst, silence], axis=1))
    assert silent.count_median == silent.count_min
    assert faded.count_median == faded.count_min == silent.count_min
