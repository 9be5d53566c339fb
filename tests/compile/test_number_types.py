"""Integers, booleans and numbers of mixed types, indices, and values near zero, against torch."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import microddsp
from microddsp.errors import UnsupportedOperatorError

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
WHOLE = torch.randint(-128, 128, (4, 8), generator=torch.Generator().manual_seed(3))
BACK = torch.tensor([-1, -2])


class Call(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Indexed(nn.Module):
    """By negative indices in a buffer of its own."""

    back: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("back", torch.tensor([-1, -3]))

    def forward(self, x: Tensor) -> Tensor:
        return x[self.back][:, self.back]


def check(module: nn.Module, x: Tensor) -> None:
    expected = module(x.clone())
    got = microddsp.compile(module, x, target="host", name="m").run(x)
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-5, atol=1e-12)


SHORT: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: (x + x).float(),
    "difference": lambda x: (x - 100).float(),
    "product, halved": lambda x: (x * 3) // 2,
    "compared": lambda x: (x + x) > 50,
    "compared with a fraction": lambda x: torch.stack([x > -2.5, x == 0.5, x < 0.5]),
    "remainder of a fraction": lambda x: torch.fmod(x, 2.5) + x % 2.5,
    "clamped": lambda x: x.clamp(min=3) + x.clamp(max=100),
    "clamped by fractions": lambda x: x.clamp(1.5, 20.5),
    "reciprocal": lambda x: 1 / (x.float().abs() + 1) + torch.reciprocal(x.clamp(min=1)),
    "scaled sum": lambda x: torch.add(x.float(), x, alpha=0.5),
    "logic": lambda x: torch.logical_xor(x, x.flip(0)) | torch.logical_and(x, x.flip(1)),
}


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32])
@pytest.mark.parametrize("case", SHORT)
def test_integers_are_those_of_torch(case: str, dtype: torch.dtype) -> None:
    check(Call(SHORT[case]), (WHOLE * (200 if dtype == torch.int16 else 1)).to(dtype))


BOOLEANS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: (x + x).float(),
    "product": lambda x: x * x.flip(0),
    "compared": lambda x: x > 0,
    "bits": lambda x: (x & x.flip(0)) | (x ^ x.flip(1)),
    "greatest": lambda x: x.amax(-1),
}


@pytest.mark.parametrize("case", BOOLEANS)
def test_booleans_are_those_of_torch(case: str) -> None:
    check(Call(BOOLEANS[case]), WHOLE > 0)


INDICES: dict[str, Callable[[Tensor], Tensor]] = {
    "one list for two axes": lambda x: x[BACK].sum() + x[:, BACK] * BACK,
    "two axes after another": lambda x: x.view(2, 2, 8)[:, [0, 1], [2, -3]],
    "two axes around another": lambda x: x.view(2, 2, 8)[[0, 1], :, [2, -3]],
    "two axes, table": lambda x: x.view(1, 2, 2, 8)[:, [[0], [-1]], [0, 1]],
}


@pytest.mark.parametrize("case", INDICES)
def test_indices_pick_what_torch_picks(case: str) -> None:
    check(Call(INDICES[case]), X)


def test_negative_indices_in_a_buffer_count_from_the_end() -> None:
    check(Indexed(), X)


@pytest.mark.parametrize("function", [torch.log1p, torch.expm1, F.elu, F.selu, F.celu])
def test_small_values_keep_their_digits(function: Callable[[Tensor], Tensor]) -> None:
    check(Call(function), X * 1e-6)


def test_dividing_by_zero() -> None:
    check(Call(lambda x: torch.isinf(x / 0)), X)


def test_crossed_bounds_give_the_upper_one() -> None:
    check(Call(lambda x: x.clamp(2.0, -2.0)), X)


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "dropout that is on": (lambda x: F.dropout(x, training=True), "dropout that is always on"),
    "power of an integer": (lambda x: 2 ** x.int().abs(), "cannot make kernels|imported"),
    "negated bytes": (lambda x: ~x.abs().to(torch.uint8), "255 - x"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_wrong_is_refused(case: str) -> None:
    function, message = REFUSED[case]
    with pytest.raises(microddsp.CompileError, match=message):
        microddsp.compile(Call(function), X, target="host", name="m")


@pytest.mark.parametrize(
    "divisor", [2.5, -0.7, torch.tensor([[0.3, -0.3, 2.5, -2.5, 7, -7, 1, -1]])]
)
def test_a_remainder_is_exact_for_large_quotients(divisor: float | Tensor) -> None:
    x = torch.tensor([[1e9, -1e9, 7.3, -7.3, 3e7, 2.5, 0.0, -1e-9]])
    check(Call(lambda x: x % divisor), x)


@pytest.mark.parametrize(
    ("dtype", "function"),
    [
        (torch.int8, lambda x: x > 1000),
        (torch.uint8, lambda x: x.clamp(-5, 7)),
        (torch.uint8, lambda x: x // -3),
        (torch.uint8, lambda x: x % -7),
        (torch.int16, lambda x: x * 70_000),
    ],
)
def test_a_number_that_torch_would_wrap_around_is_refused(
    dtype: torch.dtype, function: Callable[[Tensor], Tensor]
) -> None:
    with pytest.raises(UnsupportedOperatorError, match="does not fit torch"):
        microddsp.compile(Call(function), torch.ones(1, 8, dtype=dtype), target="host", name="m")
