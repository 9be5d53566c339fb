"""Pipelines put together at random: PyTorch, the host's C and the device's agree, and the C has no
undefined behaviour."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import microddsp
from microddsp import dsp
from microddsp.micro.package.model import CompiledModel

RATE = 8000.0


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


class Rectifier(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


class Halves(nn.Module):
    """Two branches that meet again."""

    def __init__(self) -> None:
        super().__init__()
        self.smooth = dsp.OnePole(300.0, sample_rate_hz=RATE)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.smooth(x)


# By name: what it makes of the number of channels, and by how much it divides the rate.
BLOCKS: dict[str, tuple[Callable[[int], nn.Module], int]] = {
    "gain": (lambda c: dsp.Gain([0.7 + 0.2 * i for i in range(c)] if c > 1 else -1.3), 1),
    "bandpass": (lambda c: dsp.Bandpass(200.0, 900.0, 2, sample_rate_hz=RATE), 1),
    "settled": (
        lambda c: dsp.Highpass(60.0, 2, sample_rate_hz=RATE, initial="first_sample"),
        1,
    ),
    "per channel": (
        lambda c: dsp.Lowpass([500.0 + 300 * i for i in range(c)], 3, sample_rate_hz=RATE),
        1,
    ),
    "low": (lambda c: dsp.Lowpass(4.0, 2, sample_rate_hz=RATE), 1),
    "envelope": (lambda c: dsp.Envelope(0.001, 0.02, sample_rate_hz=RATE), 1),
    "one pole": (lambda c: dsp.OnePole(100.0, sample_rate_hz=RATE), 1),
    "dc": (lambda c: dsp.DCBlocker(20.0, sample_rate_hz=RATE), 1),
    "fir": (lambda c: dsp.FIR(np.random.default_rng(c).standard_normal(11)), 1),
    "linear phase": (lambda c: dsp.FIR(np.hanning(20)), 1),
    "decimate": (lambda c: dsp.Decimate(2), 2),
    "convolution": (lambda c: dsp.CausalConv1d(c, c, 3), 1),
    "rectified": (lambda c: nn.Sequential(dsp.CausalConv1d(c, c, 4), nn.ReLU()), 1),
    "tanh": (lambda c: nn.Tanh(), 1),
    "square": (lambda c: Square(), 1),
    "abs": (lambda c: Rectifier(), 1),
    "branches": (lambda c: Halves(), 1),
}


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[nn.Module, int, int]:
    """A pipeline, its channels and its block."""
    channels = draw(st.integers(1, 3))
    # without a state it would be a function of one frame, and no stream
    names = draw(
        st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=5).filter(
            lambda names: not set(names) <= {"gain", "tanh", "square", "abs"}
        )
    )
    factor = int(np.prod([BLOCKS[n][1] for n in names]))
    block = factor * draw(st.integers(1, 19))
    torch.manual_seed(draw(st.integers(0, 99)))
    return nn.Sequential(*(BLOCKS[n][0](channels) for n in names)).eval(), channels, block


MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "m.h"
int main(void)
{{
    m_t *self = malloc(sizeof *self);
    float *x = malloc({inputs}u * sizeof *x), *y = malloc({outputs}u * sizeof *y);
    void *workspace = {workspace}u ? malloc({workspace}u) : NULL;
    if (m_init(self, workspace, {workspace}u) != M_OK) {{
        return 2;
    }}
    while (fread(x, sizeof *x, {inputs}u, stdin) == {inputs}u) {{
        if (m_process(self, x, y) != M_OK) {{
            return 3;
        }}
        fwrite(y, sizeof *y, {outputs}u, stdout);
    }}
    free(self), free(x), free(y), free(workspace);
    return 0;
}}
"""


def sanitized(model: CompiledModel, x: np.ndarray, folder: Path) -> np.ndarray:
    """The C as a program of its own, built to stop at undefined behaviour; its blocks of output."""
    sizes = [int(np.prod(t.shape)) for t in (model.signature.inputs[0], model.signature.outputs[0])]
    for name, text in model.sources.items():
        (folder / name).write_text(text)
    workspace = model.signature.workspace_bytes
    main = MAIN.format(inputs=sizes[0], outputs=sizes[1], workspace=workspace)
    (folder / "main.c").write_text(main)
    flags = ["-std=c99", "-O1", "-ffp-contract=off", "-fsanitize=address,undefined"]
    command = ["cc", *flags, "-fno-sanitize-recover=all", "main.c", "m.c", "-o", "m", "-lm"]
    subprocess.run(command, cwd=folder, check=True)
    blocks = np.split(x, x.shape[1] // model.signature.block, -1)
    given = b"".join(np.ascontiguousarray(b).tobytes() for b in blocks)
    done = subprocess.run([str(folder / "m")], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return np.frombuffer(done.stdout, np.float32).reshape(
        len(blocks), *model.signature.outputs[0].shape
    )


class Expected(NamedTuple):
    """Exact blocks of output, and how far float32 may be off."""

    blocks: np.ndarray
    tolerance: float


def compiled(
    case: tuple[nn.Module, int, int], target: str
) -> tuple[CompiledModel, np.ndarray, Expected]:
    """The model, a signal of five blocks, and what torch makes of them."""
    module, channels, block = case
    x = torch.randn(channels, 5 * block) + 0.3
    expected = streamed(module, x, block)
    assume(np.isfinite(expected).all() and np.abs(expected).max() > 1e-6)
    exact_module = copy.deepcopy(module).double()
    exact = streamed(exact_module, x.double(), block)
    model = microddsp.compile(module, x[:, :block], target=target, name="m")
    # The rule for floats: 1e-5 of the largest value, or what float32 itself is off by, times two.
    # That is a random number, small by chance in one run: the largest of nine, for louder and
    # louder signals (in 17 high-pass filters in direct form the C was off by 1.3 times it at most).
    off = [np.abs(expected - exact).max()]
    for louder in (x * (1 + k / 64) for k in range(1, 9)):
        right = streamed(exact_module, louder.double(), block)
        off.append(np.abs(streamed(module, louder, block) - right).max())
    tolerance = max(1e-5 * np.abs(exact).max(), 2.0 * max(off))
    return model, x.numpy(), Expected(exact, float(tolerance))


def streamed(module: nn.Module, x: Tensor, block: int) -> np.ndarray:
    """The outputs of one block after another."""
    with torch.no_grad(), microddsp.streaming(module):
        return torch.stack([module(b) for b in x.split(block, -1)]).numpy()


def close(found: np.ndarray, expected: Expected) -> None:
    np.testing.assert_allclose(found, expected.blocks, rtol=0, atol=expected.tolerance)


def check_host(case: tuple[nn.Module, int, int], folder: Path) -> None:
    model, x, expected = compiled(case, "host")
    found = np.stack([model.run(b) for b in np.split(x, 5, -1)])
    close(found, expected)
    np.testing.assert_array_equal(sanitized(model, x, folder), found)


def check_device(case: tuple[nn.Module, int, int]) -> None:
    model, x, expected = compiled(case, "cortex-m4f")
    host, _, _ = compiled(case, "host")
    with microddsp.open_board("mps2-an386", model) as board:
        found = board.run(x)
    close(np.stack(np.split(found, 5, -1)), expected)
    # Both multiply and add in one step, in the same order: the same bits. But the C library's tanh
    # differs in its last one between the two.
    if not any(isinstance(part, nn.Tanh) for part in case[0].modules()):
        np.testing.assert_array_equal(found, host.run(x))


QUICK = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@QUICK
@given(case=pipelines())
def test_the_hosts_c_agrees_and_is_sane(case: tuple[nn.Module, int, int], tmp_path: Path) -> None:
    check_host(case, tmp_path)


@pytest.mark.qemu
@settings(QUICK, max_examples=5)
@given(case=pipelines())
def test_the_device_gives_the_hosts_bits(case: tuple[nn.Module, int, int]) -> None:
    check_device(case)


@pytest.mark.slow
@settings(QUICK, max_examples=200, derandomize=False)
@given(case=pipelines())
def test_many_on_the_host(case: tuple[nn.Module, int, int], tmp_path: Path) -> None:
    check_host(case, tmp_path)


@pytest.mark.slow
@pytest.mark.qemu
@settings(QUICK, max_examples=60, derandomize=False)
@given(case=pipelines())
def test_many_on_the_device(case: tuple[nn.Module, int, int]) -> None:
    check_device(case)
