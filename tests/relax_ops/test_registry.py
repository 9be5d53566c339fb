"""The table of dsp.* operators: names, type rules, errors."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tvm
from tvm import relax

from microddsp.errors import CompileError
from microddsp.relax_ops import registry


def variable(name: str, *shape: int, dtype: str = "float32") -> relax.Var:
    return relax.Var(name, relax.TensorType(shape, dtype))


def constant(*shape: int) -> relax.Expr:
    return relax.const(np.zeros(shape, "float32"))


def type_of(node: relax.Call) -> relax.Type:
    return relax.BlockBuilder().normalize(node).ty


def test_every_operator_is_registered_and_a_second_time_is_harmless() -> None:
    registry.register_all()
    registry.register_all()
    for entry in registry.operators():
        assert tvm.ir.Op.get(f"dsp.{entry.name}").name == f"dsp.{entry.name}"


def test_a_second_operator_of_the_same_name_is_an_error() -> None:
    entry = registry.operators()[0]
    with pytest.raises(ValueError, match="defined twice"):
        registry.define(entry)


def test_an_unknown_operator_names_the_nearest_one() -> None:
    with pytest.raises(CompileError, match="did you mean 'decimate'"):
        registry.operator("dsp.decimat")


def test_only_block_operators_have_a_kernel_of_their_own() -> None:
    with_kernel = {entry.name for entry in registry.operators() if entry.legalize}
    assert with_kernel == set(registry.BLOCK_MODULES)


@pytest.mark.parametrize(
    ("name", "coefficients", "state"),
    [
        ("sos", (2, 5), (3, 2, 2)),
        ("sos", (3, 2, 5), (3, 2, 2)),
        ("svf", (1, 6), (3, 1, 2)),
        ("first_order", (3,), (3, 1)),
        ("envelope", (3, 2), (3, 1)),
    ],
)
def test_a_filter_gives_a_signal_and_a_state_like_its_arguments(
    name: str, coefficients: tuple[int, ...], state: tuple[int, ...]
) -> None:
    x, z = variable("x", 3, 8), variable("z", *state)
    result = type_of(registry.call(f"dsp.{name}", x, constant(*coefficients), z))
    tvm.ir.assert_structural_equal(result, relax.TupleType([x.ty, z.ty]))


def test_the_event_counter_counts_in_integers() -> None:
    state = variable("state", 3, 3, dtype="int32")
    node = registry.call("event_counter", variable("x", 3, 8), constant(2), state, 100)
    count, events, new_state = type_of(node).fields
    tvm.ir.assert_structural_equal(count, relax.TensorType((3, 1), "int32"))
    tvm.ir.assert_structural_equal(events, relax.TensorType((3, 8), "float32"))
    tvm.ir.assert_structural_equal(new_state, state.ty)


@pytest.mark.parametrize(("interleaved", "shape"), [(0, (2, 16)), (1, (16, 2))])
def test_raw_samples_become_a_signal_of_channels_by_time(
    interleaved: int, shape: tuple[int, int]
) -> None:
    raw = variable("raw", *shape, dtype="int16")
    node = registry.call("dsp.decode_input", raw, constant(), constant(), interleaved)
    tvm.ir.assert_structural_equal(type_of(node), relax.TensorType((2, 16), "float32"))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("fir", [(2, 3, 8), (4,), (2, 3, 3)], r"\(channels, samples\), got the shape \(2, 3, 8\)"),
        ("fir", [(3, 8), (2, 4), (3, 3)], r"taps must have the shape \(4,\) or \(3, 4\)"),
        ("fir", [(3, 8), (4,), (3, 4)], r"state must have the shape \(3, 3\), got \(3, 4\)"),
        ("decimate", [(1, 8), 3], "block of 8 samples is no multiple of the factor 3"),
        ("frames", [(1, 8), 16, 3, (1, 13)], "no multiple of the hop 3"),
        ("frames", [(1, 8), 2, 4, (1, 0)], "hop 4 is longer than the frame 2"),
        ("causal_conv1d", [(4, 8), (6, 2, 3), (6,), (4, 2), 1, 1, 1], "does not fit 4 channels"),
        ("causal_conv1d", [(4, 8), (6, 4, 3), (6,), (4, 2), 0, 1, 1], "stride must be at least 1"),
        ("sos", [(1, 8), (2, 6), (1, 2, 2)], r"coefficients must have the shape \(2, 5\)"),
        ("envelope", [(1, 8), (2,), (2, 1)], r"state must have the shape \(1, 1\)"),
        ("envelope", [(1, 8), (2,)], r"takes \(x, coefficients, state\), got 2 values"),
        ("first_sample", [(1, 8), (2,), (1, 3), (1, 1), (1,)], "gain must have the shape"),
    ],
)
def test_arguments_that_do_not_fit_are_named(
    name: str, arguments: list[tuple[int, ...] | int], message: str
) -> None:
    values = [
        value if isinstance(value, int) else variable(f"v{i}", *value)
        for i, value in enumerate(arguments)
    ]
    with pytest.raises(CompileError, match=message):
        registry.call(name, *values)


def test_a_wrong_type_of_samples_is_named() -> None:
    with pytest.raises(CompileError, match="x must be float32, not int16"):
        registry.call("dsp.decimate", variable("x", 1, 8, dtype="int16"), 2)


def test_importing_the_operators_does_not_import_tvm() -> None:
    code = (
        "import sys, microddsp.relax_ops.registry as r; r.operators(); "
        "sys.exit(any(n == 'tvm' for n in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
