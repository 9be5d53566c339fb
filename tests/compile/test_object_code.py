"""Kernels as object code: the same bits as the C, products and sums fused only where written."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tvm.script import tirx as T

import microddsp
from microddsp import dsp
from microddsp.errors import ArchiveError, CompileError, ParameterError
from microddsp.micro.aot.kernel import generate
from microddsp.micro.aot.llvm import _check_rounding, build_object
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.targets import TARGETS

BLOCK, BLOCKS = 64, 5


class Net(torch.nn.Module):
    """A filter, frames, a convolution with relu and a softmax: fmaf, maxima, expf, tables."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.filter = dsp.Bandpass(400.0, 900.0, 4, sample_rate_hz=8000)
        self.frames = dsp.Frames(64, 64)
        self.conv = torch.nn.Conv1d(1, 4, 9, stride=4)
        self.dense = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.conv(self.frames(self.filter(x))))
        return torch.softmax(self.dense(h.mean(-1)), -1)


def compiled(target: str, emit: str) -> CompiledModel:
    return microddsp.compile(Net(), torch.zeros(1, BLOCK), name="net", target=target, emit=emit)


def signal() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((1, BLOCK * BLOCKS)).astype("float32")


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return compiled("cortex-m4f", "obj")


@pytest.mark.qemu
def test_an_archive_with_an_object_runs_to_the_bit_as_the_c(
    model: CompiledModel, tmp_path: Path
) -> None:
    model.save(tmp_path / "net.tar")
    loaded = microddsp.load(tmp_path / "net.tar")
    assert loaded == model
    answers = []
    for candidate in (loaded, compiled("cortex-m4f", "c")):
        with microddsp.open_board("mps2-an386", candidate) as board:
            answers.append(board.run(signal()))
            stack = board.stack_bytes()
        assert stack <= candidate.memory.stack_bytes
        assert candidate.memory.outside == ()
    assert np.array_equal(*answers)
    assert np.abs(loaded.run(signal()) - answers[0]).max() < 1e-6


@pytest.mark.parametrize(
    "pipeline",
    [
        torch.nn.Sequential(dsp.FIR(torch.hann_window(32)), dsp.Log(offset=2.0)),
        dsp.EventCounter(0.5, 0.5, refractory_s=0.001, sample_rate_hz=8000),
    ],
    ids=["copies and bits", "scan"],
)
def test_what_the_c_has_functions_for_is_the_same_in_an_object(pipeline: torch.nn.Module) -> None:
    x = torch.zeros(1, BLOCK)
    done = [microddsp.compile(pipeline, x, name="m", target="host", emit=e) for e in ("c", "obj")]
    assert np.array_equal(*(model.run(signal()) for model in done))


def test_the_object_is_the_same_each_time_and_leaks_no_names(
    model: CompiledModel, tmp_path: Path
) -> None:
    assert compiled("cortex-m4f", "obj").objects == model.objects
    path = tmp_path / "net_kernels.o"
    path.write_bytes(model.objects["net_kernels.o"])
    said = subprocess.run(
        ["arm-none-eabi-nm", str(path)], capture_output=True, text=True, check=True
    ).stdout
    defined = re.findall(r" [TDBR] (\w+)", said)
    assert defined and all(name.startswith("net_k") for name in defined)
    assert set(re.findall(r" U (\w+)", said)) <= {"expf", "memcpy", "memset"}
    assert str(tmp_path) not in repr(model.objects) and b"/tmp" not in path.read_bytes()


def test_an_object_for_this_computer_gives_the_bits_of_the_c() -> None:
    answers = [compiled("host", emit).run(signal()) for emit in ("c", "obj")]
    assert np.array_equal(*answers)


def test_the_kernels_can_still_be_built_from_c(model: CompiledModel, tmp_path: Path) -> None:
    for name, text in model.sources.items():
        (tmp_path / name).write_text(text)
    flags = "-std=c99 -Wall -Wextra -Werror -c net.c".split()
    for macro in ((), ("-DNET_KERNELS_IN_C",)):
        subprocess.run(["gcc", *flags, *macro], cwd=tmp_path, check=True)
        said = subprocess.run(
            ["nm", "net.o"], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout
        assert (" U net_k" in said) is (not macro)


@T.prim_func
def apart(x: T.Buffer((16,), "float32"), y: T.Buffer((8,), "float32")):
    for i in range(8):
        v: T.let[T.float32] = x[i] * x[i + 8]
        if v > T.float32(0):
            y[i] = v + x[i + 1]


@pytest.mark.parametrize("target", ["cortex-m4f", "cortex-m7", "cortex-m33", "cortex-m55"])
def test_no_product_is_fused_that_was_not_written_so(target: str, tmp_path: Path) -> None:
    kernel = generate(apart, "apart", fma=False, restrict="")
    (tmp_path / "apart.o").write_bytes(build_object([kernel], TARGETS[target]))
    said = subprocess.run(
        ["arm-none-eabi-objdump", "-d", "apart.o"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "vmul.f32" in said and not re.search(r"vfn?m[as]", said)


def test_more_fused_instructions_than_written_are_refused() -> None:
    code = "  %1 = tail call float @llvm.fma.f32(float %a, float %b, float %c)\n"
    once = "\tvfma.f32\ts0, s1, s2\n"
    _check_rounding(code, once)
    with pytest.raises(CompileError, match="fused 1 products"):
        _check_rounding(code, once + "\tvfms.f32\ts0, s1, s2\n")


def test_another_file_beside_the_object_is_refused(model: CompiledModel, tmp_path: Path) -> None:
    model.objects["other.o"] = b"\x7fELF"
    try:
        model.save(tmp_path / "net.tar")
    finally:
        del model.objects["other.o"]
    with pytest.raises(ArchiveError, match="no object file"):
        microddsp.load(tmp_path / "net.tar")


def test_what_cannot_be_emitted_is_named() -> None:
    with pytest.raises(ParameterError, match="cannot emit 'rust'"):
        compiled("cortex-m4f", "rust")
