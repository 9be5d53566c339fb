"""The workspace: shared by models and instances, and with inputs and outputs inside."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import microddsp
from microddsp import dsp
from microddsp.micro.package.model import CompiledModel

BLOCK, BLOCKS = 64, 6


def smoother() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(*(dsp.FIR(torch.randn(taps) / 6) for taps in (33, 9)))


def spectrum() -> torch.nn.Module:
    return dsp.LogMel(10, 64, 64, sample_rate_hz=8000)


def signal() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((1, BLOCK * BLOCKS)).astype("float32")


@pytest.fixture(scope="module")
def models() -> dict[str, CompiledModel]:
    return {
        "fir": microddsp.compile(smoother(), torch.zeros(1, BLOCK), name="fir"),
        "mel": microddsp.compile(spectrum(), torch.zeros(1, BLOCK), name="mel"),
    }


@pytest.fixture(scope="module")
def inside() -> dict[str, CompiledModel]:
    return {
        "fir": microddsp.compile(smoother(), torch.zeros(1, BLOCK), name="fir", io_in_arena=True),
        "mel": microddsp.compile(spectrum(), torch.zeros(1, BLOCK), name="mel", io_in_arena=True),
    }


SHARED = """
#include <stdio.h>
#include <string.h>
#include "fir.h"
#include "mel.h"
static union {
    unsigned char fir[FIR_WORKSPACE_BYTES];
    unsigned char mel[MEL_WORKSPACE_BYTES];
    uint64_t align;
} workspace;
static fir_t first, second;
static mel_t mel;
int main(void)
{
    float x[FIR_INPUT_LEN], y[FIR_OUT_LEN], w[FIR_OUT_LEN], z[MEL_OUT_LEN];
    if (fir_init(&first, &workspace, sizeof workspace) != FIR_OK) { return 1; }
    if (fir_init(&second, &workspace, sizeof workspace) != FIR_OK) { return 2; }
    if (mel_init(&mel, &workspace, sizeof workspace) != MEL_OK) { return 3; }
    if (fir_init(&second, &workspace, FIR_WORKSPACE_BYTES - 1u) != FIR_ERR_SIZE) { return 4; }
    while (fread(x, sizeof x, 1u, stdin) == 1u) {
        (void)memset(&workspace, 0xff, sizeof workspace);
        if (fir_process(&first, x, y) != FIR_OK) { return 5; }
        (void)fwrite(y, sizeof y, 1u, stdout);
        if (mel_process(&mel, x, z) != MEL_OK) { return 6; }
        (void)fwrite(z, sizeof z, 1u, stdout);
        if (fir_process(&second, y, w) != FIR_OK) { return 7; }
        (void)fwrite(w, sizeof w, 1u, stdout);
    }
    return 0;
}
"""


def test_models_and_instances_share_one_workspace_of_the_largest_size(
    models: dict[str, CompiledModel], tmp_path: Path
) -> None:
    for model in models.values():
        for name, text in model.sources.items():
            (tmp_path / name).write_text(text)
    (tmp_path / "main.c").write_text(SHARED)
    flags = "-std=c99 -O2 -ffp-contract=off -fsanitize=address,undefined".split()
    command = ["gcc", *flags, "fir.c", "mel.c", "main.c", "-o", "shared", "-lm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    x = signal()
    done = subprocess.run([tmp_path / "shared"], input=x.tobytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    rows = np.frombuffer(done.stdout, "float32").reshape(BLOCKS, -1)
    first, mel, second = np.split(rows, [BLOCK, rows.shape[1] - BLOCK], axis=1)
    alone = models["fir"].run(x)
    models["fir"].reset()
    assert np.array_equal(first.ravel(), alone.ravel())
    assert np.array_equal(second.ravel(), models["fir"].run(alone).ravel())
    assert np.array_equal(mel, models["mel"].run(x)[0].T)


@pytest.mark.parametrize("name", ["fir", "mel"])
def test_inputs_and_outputs_lie_in_the_workspace_and_are_counted(
    models: dict[str, CompiledModel], inside: dict[str, CompiledModel], name: str
) -> None:
    model = inside[name]
    rows = {row[0]: row for row in model.buffers}
    assert {"input.input", "output.out"} <= rows.keys()
    for _, nbytes, offset, _, _ in rows.values():
        assert offset + nbytes <= model.signature.workspace_bytes
    outside = models[name].signature
    separate = sum(t.nbytes for t in (*outside.inputs, *outside.outputs))
    assert model.signature.workspace_bytes < outside.workspace_bytes + separate
    models[name].reset()
    assert np.array_equal(model.run(signal()), models[name].run(signal()))


def test_a_filter_writes_over_its_input_where_it_has_read_it() -> None:
    low = torch.nn.Sequential(dsp.Lowpass(300.0, 2, sample_rate_hz=8000))
    model = microddsp.compile(low, torch.zeros(1, BLOCK), name="low", io_in_arena=True)
    assert model.signature.workspace_bytes == BLOCK * 4
    x = signal()
    expected = low(torch.tensor(x)).detach().numpy()
    assert np.abs(model.run(x) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.qemu
def test_a_device_finds_its_input_through_the_accessor(
    inside: dict[str, CompiledModel], tmp_path: Path
) -> None:
    x = signal()
    expected = smoother()(torch.tensor(x)).detach().numpy()
    inside["fir"].save(tmp_path / "fir.tar")
    with microddsp.open_board("mps2-an386", microddsp.load(tmp_path / "fir.tar")) as board:
        assert np.abs(board.run(x) - expected).max() <= 1e-5 * np.abs(expected).max()
        assert board.time(x).blocks == BLOCKS


def test_a_state_is_no_part_of_the_workspace(inside: dict[str, CompiledModel]) -> None:
    """Garbage between calls changes nothing, as other models leave it there."""
    model = inside["mel"]
    model.reset()
    whole = model.run(signal())
    model.reset()
    library = model._host()
    pieces = []
    for k in range(BLOCKS):
        library._workspace[:] = 0xFF
        pieces.append(model.run(signal()[:, k * BLOCK : (k + 1) * BLOCK]))
    assert np.array_equal(np.concatenate(pieces, -1), whole)
