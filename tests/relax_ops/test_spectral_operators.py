"""Transforms, spectra and bands: PyTorch against numpy, gradients, and the kernels in C."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import microddsp
from microddsp.errors import CompileError, ParameterError, SignalError
from microddsp.relax_ops import bands, logarithm, rfft, spectrum
from microddsp.relax_ops.bands import neighbours_of, runs_of
from microddsp.relax_ops.fft_plan import plan
from microddsp.relax_ops.logarithm import FULL, largest_error, terms_for

LENGTHS = [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]


class Calls(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def noise(*shape: int, dtype: torch.dtype = torch.float64, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(grad)
    )


def in_c(function: Callable[[Tensor], Any], x: Tensor) -> Any:
    """What the generated C gives for one block, as arrays."""
    model = microddsp.compile(Calls(function), torch.zeros_like(x), target="host", name="m")
    return model.run(x.numpy())


def exact_bins(x: Tensor) -> np.ndarray:
    return np.fft.rfft(x.double().numpy())


# ---- PyTorch


@pytest.mark.parametrize("n", [1, 2, 7, 8, 30])
def test_rfft_is_numpys(n: int) -> None:
    y = rfft(noise(2, 3, n)).numpy()
    np.testing.assert_allclose(y[..., 0] + 1j * y[..., 1], exact_bins(noise(2, 3, n)), atol=1e-12)


@pytest.mark.parametrize("power", [1, 2])
def test_a_spectrum_has_bins_before_frames(power: int) -> None:
    x, window = noise(2, 5, 3, 16), noise(16)
    expected = np.abs(exact_bins(x * window)) ** power
    np.testing.assert_allclose(
        spectrum(x, window, power).numpy(), np.moveaxis(expected, 1, -1), atol=1e-12
    )


def test_bands_are_a_product_of_matrices() -> None:
    x, weights = noise(2, 3, 9, 4), noise(5, 9)
    np.testing.assert_allclose(
        bands(x, weights), np.einsum("bk,...km->...bm", weights, x), atol=1e-12
    )


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (rfft, [(2, 8)]),
        (rfft, [(3, 7)]),
        (lambda x, w: spectrum(x, w, 2), [(3, 2, 8), (8,)]),
        (lambda x, w: spectrum(x, w, 1), [(2, 1, 7), (7,)]),
        (bands, [(2, 5, 3), (4, 5)]),
        (lambda x: logarithm(x * x, 0.1, 0.3, 2.0, 1.0, FULL), [(2, 5)]),
        (lambda x: logarithm(x * x, 0.1, 0.3, 2.0, 1.0, 4), [(2, 5)]),
    ],
)
def test_gradients_are_right(
    function: Callable[..., Tensor], shapes: list[tuple[int, ...]]
) -> None:
    values = [noise(*shape, grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(function, values)
    assert torch.autograd.gradgradcheck(function, values)


def test_the_magnitude_of_silence_has_a_gradient_of_zero() -> None:
    x = torch.zeros(1, 1, 8, requires_grad=True)
    spectrum(x, torch.ones(8), 1).sum().backward()
    assert torch.equal(x.grad, torch.zeros(1, 1, 8))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("rfft", [(2, 8)]),
        ("spectrum", [(3, 2, 8), (8,), 2]),
        ("bands", [(2, 5, 3), (4, 5)]),
        ("logarithm", [(2, 5), 0.0, 0.1, 1.0, 0.0, 3]),
    ],
)
def test_torch_accepts_the_operator_as_registered(name: str, arguments: list[object]) -> None:
    values = [
        noise(*one, dtype=torch.float32, grad=True) if isinstance(one, tuple) else one
        for one in arguments
    ]
    torch.library.opcheck(getattr(torch.ops.microddsp, name).default, values)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: rfft(torch.zeros(0)), SignalError, r"frames \(..., n\)"),
        (lambda: rfft(torch.zeros(4).int()), SignalError, "float32 or float64"),
        (lambda: spectrum(torch.zeros(1, 8), torch.ones(8)), SignalError, "frames, channels, n"),
        (lambda: spectrum(torch.zeros(1, 1, 8), torch.ones(7)), ParameterError, "window of 8"),
        (lambda: spectrum(torch.zeros(1, 1, 8), torch.ones(8), 3), ParameterError, "power 1 or 2"),
        (
            lambda: spectrum(torch.zeros(1, 1, 8), torch.ones(8).double()),
            SignalError,
            "window is torch.float64",
        ),
        (lambda: logarithm(torch.zeros(2).int(), 0, 1, 1, 0, 3), SignalError, "float32 or"),
        (lambda: logarithm(torch.zeros(2), 0.0, 0.0, 1.0, 0.0, 3), ParameterError, "amin"),
        (lambda: logarithm(torch.zeros(2), 0.0, 1.0, 1.0, 0.0, 0), ParameterError, "1 to 9"),
        (lambda: bands(torch.zeros(5), torch.ones(2, 5)), SignalError, "bins, frames"),
        (lambda: bands(torch.zeros(5, 1), torch.ones(2, 4)), ParameterError, r"\(bands, 5\)"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(
    wrong: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        wrong()


# ---- the plan


@pytest.mark.parametrize("n", LENGTHS)
def test_the_passes_of_a_plan_give_all_points(n: int) -> None:
    made = plan(n)
    span = 1
    for one in made.passes:
        assert one.span == span
        span *= one.radix
    assert span == made.span
    assert 4 * span == made.points == n // 2


def test_tables_are_smaller_than_the_signal_s_own_circle() -> None:
    for n in (64, 512, 4096):
        floats = sum(table.size for table in plan(n).twiddles(halved=True))
        assert floats < n


# ---- kernels


class Results(NamedTuple):
    """What the transforms of all lengths gave in C, of `x`."""

    x: Tensor
    bins: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def transforms() -> Results:
    """All lengths in one model: each transforms the first samples."""
    x = noise(2, LENGTHS[-1], dtype=torch.float32)
    x[1] += 3.0  # an offset is where rounding shows
    return Results(x, in_c(lambda x: {f"n{n}": rfft(x[:, :n]) for n in LENGTHS}, x))


@pytest.mark.parametrize("n", LENGTHS)
def test_the_transform_in_c_is_exact_to_rounding(transforms: Results, n: int) -> None:
    y = transforms.bins[f"n{n}"]
    expected = exact_bins(transforms.x[:, :n])
    error = np.abs(y[..., 0] + 1j * y[..., 1] - expected).max()
    assert error < 4e-7 * np.abs(expected).max()
    assert (y[:, [0, -1], 1] == 0).all()


@pytest.mark.parametrize(
    ("frames", "channels", "n", "power"),
    [(1, 1, 8, 2), (3, 2, 32, 1), (3, 2, 32, 2), (1, 2, 256, 2)],
)
def test_a_spectrum_in_c_is_torch_s(frames: int, channels: int, n: int, power: int) -> None:
    window = torch.hann_window(n) + 0.1
    if n != 256:  # one half is enough for a mirror image
        window[n // 2 + 1 :] = window[1 : n // 2].flip(0)
    x = noise(frames, channels, n, dtype=torch.float32)
    y = in_c(lambda x: spectrum(x, window, power), x)
    expected = np.abs(exact_bins(x.double() * window.double())) ** power
    np.testing.assert_allclose(y, np.moveaxis(expected, 0, -1), atol=1e-6 * expected.max(), rtol=0)


def test_a_length_without_a_fast_transform_is_refused_when_compiling() -> None:
    with pytest.raises(CompileError, match="power of two; got 48"):
        in_c(rfft, torch.zeros(1, 48))


WEIGHTS = {
    "triangles": np.maximum(0, 1 - np.abs(np.arange(33) - np.arange(2, 31, 4)[:, None]) / 4),
    "dense and odd": np.random.default_rng(0).standard_normal((3, 33)),
    "triangles apart": np.maximum(0, 1 - np.abs(np.arange(33) - [[9], [11], [26]]) / 2.5),
    "one weight at each end": np.eye(33)[[0, 32]],
    "an empty band": np.concatenate([np.zeros((1, 33)), np.ones((1, 33))]),
    "nothing at all": np.zeros((2, 33)),
    "holes inside": (np.arange(33) % 5 == 0)[None] * np.ones((2, 1)),
}


@pytest.mark.parametrize("shape", [(33, 1), (2, 33, 3)])
def test_bands_in_c_are_torch_s(shape: tuple[int, ...]) -> None:
    x = noise(*shape, dtype=torch.float32)
    tables = {name.replace(" ", "_"): torch.from_numpy(w).float() for name, w in WEIGHTS.items()}
    y = in_c(lambda x: {name: bands(x, weights) for name, weights in tables.items()}, x)
    for name, weights in tables.items():
        np.testing.assert_allclose(y[name], bands(x.double(), weights.double()), atol=1e-5)


def test_bands_of_fewer_bins_than_a_turn_of_the_loop_are_right() -> None:
    weights = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    x = noise(3, 2, dtype=torch.float32)
    np.testing.assert_allclose(in_c(lambda x: bands(x, weights), x), weights @ x, atol=1e-6)


def test_triangles_are_stored_by_bins_and_other_weights_are_not() -> None:
    found = {name: neighbours_of(weights) for name, weights in WEIGHTS.items()}
    assert [n for n, one in found.items() if one] == [
        *("triangles", "triangles apart", "one weight at each end", "an empty band", "holes inside")
    ]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 5),
    st.lists(
        st.tuples(st.integers(0, 4), st.floats(-2, 2, width=32), st.floats(-2, 2, width=32)),
        min_size=1,
        max_size=12,
    ),
)
def test_weights_by_bins_hold_every_weight(
    count: int, bins: list[tuple[int, float, float]]
) -> None:
    weights = np.zeros((count, len(bins)), np.float32)
    for k, (band, one, other) in enumerate(bins):
        weights[min(band, count - 1), k] = one
        weights[min(band + 1, count - 1), k] = other
    found = neighbours_of(weights)
    if found is None:
        return
    assert found.counts.sum() == len(found.weights)
    again = np.zeros((count + 2, len(bins)), np.float32)
    upper = np.repeat(np.arange(count + 1), found.counts)
    for k, band, pair in zip(range(found.first, 99), upper, found.weights, strict=False):
        again[[band, band + 1], k] = pair
    np.testing.assert_array_equal(again[1:-1], weights)
    assert not again[0].any() and not again[-1].any()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.0, 1.0, -2.0]), min_size=9, max_size=9), min_size=1)
)
def test_runs_hold_every_weight_and_stay_inside(rows: list[list[float]]) -> None:
    weights = np.array(rows, np.float32)
    runs, at = runs_of(weights), 0
    again = np.zeros_like(weights)
    for row, (first, turns, singles) in zip(again, runs.spans, strict=True):
        count = 4 * turns + singles
        assert 0 <= first and first + count <= weights.shape[1]
        row[first : first + count] = runs.weights[at : at + count]
        at += count
    np.testing.assert_array_equal(again, weights)


# ---- logarithms


def test_a_shorter_polynomial_keeps_its_error() -> None:
    x = torch.logspace(-35, 35, 20001, dtype=torch.float64)
    for terms in range(1, FULL):
        apart = logarithm(x, 0.0, 1e-37, 1.0, 0.0, terms) - torch.log(x)
        assert 0.5 * largest_error(terms) < float(apart.abs().max()) < 1.01 * largest_error(terms)


def test_an_allowed_error_takes_the_fewest_terms() -> None:
    assert [terms_for(error) for error in (1.0, 1e-3, 1e-4, 1e-9)] == [1, 3, 4, FULL]


@pytest.fixture(scope="module")
def logarithms() -> tuple[Tensor, dict[str, np.ndarray]]:
    """Numbers, and what three logarithms make of them in C."""
    spread = torch.logspace(-37, 38, 4001)
    around = torch.linspace(0.7, 1.42, 4001)
    x = torch.cat([spread, around, torch.tensor([0.0, -0.0, -1.0, -3e38, 1e-42, 1.0])])[None]
    huge = torch.tensor(3e38)

    def functions(x: Tensor) -> dict[str, Tensor]:
        infinite = torch.where(x > 1.0, x.clamp(min=10.0) * huge, x)
        return {
            "full": logarithm(x, 0.0, 1e-36, 1.0, 0.0, FULL),
            "shorter": logarithm(x, 0.0, 1e-36, 1.0, 0.0, 4),
            "scaled": logarithm(x, 0.5, 0.25, -3.0, 2.0, FULL),
            "infinite": logarithm(infinite, 0.0, 1e-36, 1.0, 0.0, FULL),
            "nothing": logarithm(infinite - infinite, 0.0, 1e-36, 1.0, 0.0, 4),
        }

    return x, in_c(functions, x) | {"torch": functions(x)}


def test_the_logarithm_in_c_is_exact_to_one_unit(
    logarithms: tuple[Tensor, dict[str, np.ndarray]],
) -> None:
    x, y = logarithms
    exact = np.log(np.maximum(x.double().numpy(), np.float32(1e-36)))
    unit = np.spacing(np.abs(exact).astype(np.float32))
    assert (np.abs(y["full"] - exact) <= unit).all()


@pytest.mark.parametrize("name", ["shorter", "scaled", "infinite", "nothing"])
def test_the_logarithm_in_c_is_torch_s(
    logarithms: tuple[Tensor, dict[str, np.ndarray]], name: str
) -> None:
    _, y = logarithms
    np.testing.assert_allclose(y[name], y["torch"][name], rtol=3e-7, atol=3e-7)
    assert name != "infinite" or np.isinf(y[name]).any()
    assert name != "nothing" or np.isnan(y[name]).any()
