"""Functions of single numbers and reductions that TVM's importer lacks, against torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import microddsp

INF = math.inf
SIGNS = torch.tensor([5.0, -5.0, 5.0, -5.0, 0.0, -3.0, 1.0, 7.5])
DIVISORS = torch.tensor([3.0, 3.0, -3.0, -3.0, 2.0, INF, -INF, -2.5])
ZEROS = torch.tensor([0.0, -0.0, 0.0, -0.0, 1.0, -1.0, 0.0, 2.0])
OTHERS = torch.tensor([0.0, 0.0, -0.0, -0.0, -0.0, INF, -1.0, 0.0])
LEVELS = torch.tensor([-1.0, 0.0, 1.0])

FUNCTIONS = {
    "amax": lambda s: s.x.amax((0, 1)),
    "amin": lambda s: s.x.amin(0, keepdim=True),
    "amax_of_integers": lambda s: s.i.amax(-1),
    "logsumexp": lambda s: torch.logsumexp(s.x * 1e3, -1, keepdim=True),
    "logsumexp_of_all": lambda s: torch.logsumexp(s.x, (0, 1)),
    "exp2": lambda s: torch.exp2(s.x * 40),
    "exp2_of_integers": lambda s: torch.exp2(s.i % 5),
    "hypot": lambda s: torch.hypot(s.x * 1e30, s.y[:1] * 1e30),
    "copysign": lambda s: torch.copysign(s.x, s.y),
    "copysign_of_zero": lambda s: torch.copysign(s.x, ZEROS),
    "copysign_of_a_number": lambda s: torch.copysign(s.x, -0.0),
    "signbit": lambda s: torch.signbit(s.x * 0 + ZEROS),
    "times_zero": lambda s: torch.log(s.x).exp().log() * 0.0,
    "times_zero_of_infinity": lambda s: torch.log(torch.relu(s.x)) * 0,
    "by_zero": lambda s: s.x / 0.0,
    "by_negative_zero": lambda s: s.i / -0.0,
    "logaddexp": lambda s: torch.logaddexp(s.x * 100, s.y * 100),
    "logaddexp_of_infinities": lambda s: torch.logaddexp(s.x / 0, s.y / 0),
    "logaddexp2": lambda s: torch.logaddexp2(s.x, s.y),
    "atan2": lambda s: torch.atan2(s.x, s.y),
    "atan2_in_the_corners": lambda s: torch.atan2(torch.copysign(ZEROS, s.x), OTHERS),
    "fmod": lambda s: torch.fmod(s.x, -0.7),
    "fmod_by_signals": lambda s: torch.fmod(s.x, s.y),
    "fmod_of_signs": lambda s: torch.fmod(torch.where(s.x < INF, SIGNS, s.x), DIVISORS),
    "remainder": lambda s: torch.remainder(s.x * 1e6, 0.7),
    "remainder_by_signals": lambda s: torch.remainder(s.x, s.y),
    "remainder_of_signs": lambda s: torch.remainder(torch.where(s.x < INF, SIGNS, s.x), DIVISORS),
    "remainder_of_a_number": lambda s: torch.remainder(2.0, s.x),
    "remainder_of_integers": lambda s: torch.remainder(s.i, -7),
    "fmax_forgets_nan": lambda s: torch.fmax(torch.log(s.x), s.y),
    "fmin_forgets_nan": lambda s: torch.fmin(s.y, torch.log(s.x)),
    "erfc": lambda s: torch.erfc(s.x * 2),
    "ldexp": lambda s: torch.ldexp(s.x, torch.tensor(-3)),
    "left_shift": lambda s: s.i << 2,
    "left_shift_of_bytes": lambda s: s.b << 3,
    "left_shift_by_signals": lambda s: s.i << s.j,
    "left_shift_of_words": lambda s: torch.bitwise_left_shift(s.i.long(), 40),
    "left_shift_of_a_number": lambda s: 1 << (s.i % 9),
    "right_shift": lambda s: s.i >> 2,
    "right_shift_of_bytes": lambda s: s.b >> (s.b % 12),
    "right_shift_unsigned": lambda s: s.b.to(torch.uint8) >> 2,
    "right_shift_by_signals": lambda s: torch.bitwise_right_shift(s.i, s.j),
    "var": lambda s: s.x.var(-1),
    "var_of_everything": lambda s: s.x.var(correction=0),
    "var_and_mean": lambda s: torch.stack(torch.var_mean(s.x, 0, correction=2)),
    "std": lambda s: s.x.std(-1),
    "std_of_the_population": lambda s: s.x.std(0, correction=0, keepdim=True),
    "std_and_mean": lambda s: torch.std_mean(s.x, -1)[0],
    "prod": lambda s: s.x.prod(-1),
    "prod_of_integers": lambda s: (s.i % 5).prod(-1, keepdim=True),
    "count_nonzero": lambda s: torch.count_nonzero(s.x > 0, -1),
    "count_nonzero_of_bytes": lambda s: torch.count_nonzero(s.b),
    "bucketize": lambda s: torch.bucketize(torch.log(s.x), LEVELS, right=True),
    "searchsorted": lambda s: torch.searchsorted(LEVELS, s.x, out_int32=True),
    "cdist": lambda s: torch.cdist(s.x, s.y),
    "cdist_by_streets": lambda s: torch.cdist(s.x, s.y, p=1),
    "adaptive_max_pool": lambda s: F.adaptive_max_pool1d(s.x[None], 3),
    "place_of_the_maximum": lambda s: F.adaptive_max_pool1d(s.x[None], 3, return_indices=True)[1],
    "greatest_of_all_time": lambda s: F.adaptive_max_pool1d(s.x, 1),
}


@pytest.fixture(scope="module")
def case(together):  # type: ignore[no-untyped-def]
    return together(FUNCTIONS)


@pytest.fixture(scope="module")
def on_host(case) -> Mapping[str, Tensor]:  # type: ignore[no-untyped-def]
    return case.on_host()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_what_torch_computes(  # type: ignore[no-untyped-def]
    name: str, case, on_host: Mapping[str, Tensor]
) -> None:
    case.check(name, on_host[name])


@pytest.mark.qemu
def test_a_device_computes_the_same(case) -> None:  # type: ignore[no-untyped-def]
    case.check_on_device()


Refused = Callable[[Tensor], Tensor]


@pytest.mark.parametrize(
    "function", [torch.special.i0, torch.erfinv, lambda x: torch.histc(x, 4, -2, 2)]
)
def test_what_has_no_converter_is_refused_by_name(function: Refused) -> None:
    class Call(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    with pytest.raises(microddsp.CompileError, match="is not supported"):
        microddsp.compile(Call(), torch.rand(1, 8), target="host", name="m")
