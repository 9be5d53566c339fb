"""What TVM's C generator gets wrong by itself, and that our kernels do not."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm.script import tirx as T

from microddsp.errors import CompileError
from microddsp.micro.aot.kernel import generate, lower
from microddsp.micro.aot.rewrites import c_float


@T.prim_func(s_tir=True)
def stale_maximum(X: T.Buffer((2,), "float32"), Y: T.Buffer((2,), "float32")):
    Y[0] = T.max(X[0] * T.float32(2), T.float32(0))
    X[0] = X[1]
    Y[1] = T.max(X[0] * T.float32(2), T.float32(0))


@T.prim_func(s_tir=True)
def scaled(X: T.Buffer((4,), "float32"), Y: T.Buffer((4,), "float32")):
    for i in range(4):
        with T.sblock("y"):
            vi = T.axis.spatial(4, i)
            Y[vi] = T.fabs(X[vi]) * T.float32(0.123456789) + T.float32(1)


@T.prim_func(s_tir=True)
def scratch(X: T.Buffer((64,), "float32"), Y: T.Buffer((64,), "float32")):
    temp = T.sblock_alloc_buffer((64,), "float32")
    for i in range(64):
        with T.sblock("t"):
            vi = T.axis.spatial(64, i)
            temp[vi] = T.exp(X[vi])
    for i in range(64):
        with T.sblock("y"):
            vi = T.axis.spatial(64, i)
            Y[vi] = temp[63 - vi]


def run(text: str, name: str, arrays: list[np.ndarray], folder: Path) -> None:
    """Compile one kernel for this computer, as it would be for a device, and call it."""
    helper = "static float microddsp_max(float a, float b) { return (a > b || a != a) ? a : b; }\n"
    source = folder / "k.c"
    source.write_text(
        "#include <math.h>\n#include <stdint.h>\n"
        + (helper if "microddsp_max(" in text else "")
        + text.replace("static void", "void")
    )
    library = folder / f"{name}.so"
    subprocess.run(
        [
            "cc",
            "-std=c99",
            "-O3",
            "-ffp-contract=off",
            "-shared",
            "-fPIC",
            "-Wall",
            "-Wextra",
            "-Werror",
            str(source),
            "-o",
            str(library),
            "-lm",
        ],
        check=True,
    )
    function = getattr(ctypes.CDLL(str(library)), name)
    function(*(ctypes.c_void_p(a.ctypes.data) for a in arrays))


def test_a_maximum_is_computed_again_after_a_store(tmp_path: Path) -> None:
    x, y = np.array([1.0, 5.0], "float32"), np.zeros(2, "float32")
    run(generate(stale_maximum, "k", fma=False, restrict="").text, "k", [x, y], tmp_path)
    np.testing.assert_array_equal(y, [2.0, 10.0])


def test_the_plain_printer_still_gets_that_maximum_wrong() -> None:
    """If this fails, TVM was mended and the rewrite can go."""
    from microddsp.micro.aot import kernel

    keep = kernel.rewrite_for_c
    kernel.rewrite_for_c = lambda body, fma: body
    try:
        mod, *_ = lower(stale_maximum, "k", fma=False)
    finally:
        kernel.rewrite_for_c = keep
    target = tvm.target.Target({"kind": "c", "keys": ["cpu"]})
    text = tvm.get_global_func("target.build.c")(mod, target).inspect_source()
    assert text.count("* 2.000000e+00f") == 1


def test_constants_and_absolute_values_are_exact(tmp_path: Path) -> None:
    kernel = generate(scaled, "k", fma=True, restrict="")
    assert "1.234568e-01f" not in kernel.text and "fabsf" in kernel.text
    x = np.array([-1.0, 3.0, -1e-7, 1e6], "float32")
    y = np.zeros(4, "float32")
    run(kernel.text, "k", [x, y], tmp_path)
    exact = np.abs(x).astype("float64") * np.float32(0.123456789).astype("float64") + 1.0
    np.testing.assert_array_equal(y, exact.astype("float32"))  # one rounding: a fused product


def test_multiply_and_add_are_fused_only_where_asked() -> None:
    assert "fmaf" in generate(scaled, "k", fma=True, restrict="").text
    assert "fmaf" not in generate(scaled, "k", fma=False, restrict="").text


def test_large_scratch_becomes_a_parameter_and_not_stack(tmp_path: Path) -> None:
    kernel = generate(scratch, "k", fma=False, restrict="")
    assert [p.elements for p in kernel.scratch] == [64]
    x, y = np.linspace(-1, 1, 64, dtype="float32"), np.zeros(64, "float32")
    run(kernel.text, "k", [x, y, np.zeros(64, "float32")], tmp_path)
    np.testing.assert_allclose(y, np.exp(x)[::-1], rtol=1e-6)


@T.prim_func(s_tir=True)
def constant(X: T.Buffer((4,), "float32"), Y: T.Buffer((4,), "float32")):
    for i in range(4):
        with T.sblock("y"):
            vi = T.axis.spatial(4, i)
            Y[vi] = T.float32(1)


def test_an_input_that_nothing_reads_is_no_warning(tmp_path: Path) -> None:
    kernel = generate(constant, "k", fma=False, restrict="")
    y = np.zeros(4, "float32")
    run(kernel.text, "k", [np.zeros(4, "float32"), y], tmp_path)
    np.testing.assert_array_equal(y, np.ones(4))


def test_inputs_are_const_and_outputs_are_not() -> None:
    kernel = generate(scaled, "k", fma=False, restrict="restrict")
    assert kernel.text.startswith("static void k(const float *restrict X, float *restrict Y)\n{")


@pytest.mark.parametrize("value", [0.1, -1e-30, 3.4e38, 1.0, -0.0, 1 / 3, 16777217.0, 1e-45])
def test_a_printed_constant_is_the_same_float(value: float, tmp_path: Path) -> None:
    source = tmp_path / "c.c"
    source.write_text(f"float value(void) {{ return {c_float(value)}; }}")
    subprocess.run(
        ["cc", "-shared", "-fPIC", str(source), "-o", str(tmp_path / "c.so")], check=True
    )
    value_of = ctypes.CDLL(str(tmp_path / "c.so")).value
    value_of.restype = ctypes.c_float
    got = np.float32(value_of())
    assert got.tobytes() == np.float32(value).tobytes()


def test_a_type_without_c_is_a_compile_error() -> None:
    @T.prim_func(s_tir=True)
    def halves(X: T.Buffer((2,), "float16"), Y: T.Buffer((2,), "float16")):
        Y[0] = X[1]

    with pytest.raises(CompileError, match="float16"):
        generate(halves, "k", fma=False, restrict="")
