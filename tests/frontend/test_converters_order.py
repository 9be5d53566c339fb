"""What goes along an axis in order: running sums, windows, sorting, writing at indices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import microddsp
from microddsp import dsp

AT = torch.tensor([[0, 2, 1, 0, 1, 2, 2, 0]] * 3)


def put(x: Tensor, index: Any, value: Tensor | float) -> Tensor:
    y = x.clone()
    y[index] = value
    return y


def zeros(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(3, 8, dtype=dtype)


EVERY = slice(None)
FUNCTIONS = {
    "cumsum": lambda s: s.x.cumsum(-1),
    "cumsum_of_rows": lambda s: s.x.cumsum(0),
    "cumsum_of_bytes": lambda s: s.b.cumsum(-1),
    "cumsum_of_flags": lambda s: (s.x > 0).cumsum(-1),
    "cumsum_with_infinities": lambda s: torch.log(torch.relu(s.x)).cumsum(-1),
    "cumsum_cancels": lambda s: torch.cat([s.x + 1e7, s.x, s.x - 1e7], -1).cumsum(-1),
    "cumprod": lambda s: s.x.cumprod(-1),
    "logcumsumexp": lambda s: torch.logcumsumexp(s.x * 50, -1),
    "logcumsumexp_of_nothing": lambda s: torch.logcumsumexp(torch.log(torch.relu(s.x)), -1),
    "cumulative_trapezoid": lambda s: torch.cumulative_trapezoid(s.x),
    "cummax": lambda s: s.x.cummax(-1)[0],
    "cummax_at": lambda s: (s.i % 7).cummax(-1)[1],
    "cummax_nan": lambda s: torch.log(s.x).cummax(-1)[0],
    "cummax_nan_at": lambda s: torch.log(s.x).cummax(-1)[1],
    "cummin": lambda s: s.x.cummin(0)[0],
    "cummin_of_bytes": lambda s: s.b.cummin(1)[0],
    "cummin_at": lambda s: s.x.cummin(0)[1],
    "unfold": lambda s: s.x.unfold(-1, 4, 2),
    "unfold_rows": lambda s: s.x.unfold(0, 2, 1),
    "roll": lambda s: s.x.roll((1, -2), (0, 1)),
    "roll_everything": lambda s: s.x.roll(3),
    "flip": lambda s: s.x.flip(0, 1),
    "interpolate": lambda s: F.interpolate(s.x[None], scale_factor=2, mode="linear"),
    "interpolate_between_corners": lambda s: F.interpolate(
        s.x[None], size=13, mode="linear", align_corners=True
    ),
    "interpolate_down": lambda s: F.interpolate(s.x[None], size=5, mode="linear"),
    "interpolate_by_a_fraction": lambda s: F.interpolate(
        s.x[None], scale_factor=1.7, mode="linear"
    ),
    "nearest": lambda s: F.interpolate(s.x[None], scale_factor=1.7),
    "nearest_down": lambda s: F.interpolate(s.x[None], size=5),
    "nearest_exact": lambda s: F.interpolate(s.x[None], size=5, mode="nearest-exact"),
    "sort": lambda s: s.x.sort(-1)[0],
    "sort_down": lambda s: s.x.sort(0, descending=True)[1],
    "sort_keeps_the_order_of_equals": lambda s: (s.b % 3).sort(dim=-1, stable=True)[1],
    "sort_puts_nan_last": lambda s: torch.log(s.x).sort(-1)[0],
    "sort_down_puts_nan_first": lambda s: torch.log(s.x).sort(-1, descending=True)[0],
    "argsort": lambda s: s.x.argsort(-1),
    "topk": lambda s: s.x.topk(3)[0],
    "lowest_at": lambda s: s.x.topk(2, 0, largest=False)[1],
    "median": lambda s: s.x.median(-1)[0],
    "median_at": lambda s: s.x[:, :7].median(-1)[1],
    "median_of_nan": lambda s: torch.log(s.x).median(-1)[0],
    "median_of_everything": lambda s: s.x.median(),
    "quantile": lambda s: s.x.quantile(0.3, -1),
    "kthvalue": lambda s: s.x.kthvalue(3)[0],
    "scatter": lambda s: s.x.scatter(1, torch.tensor([[1], [2], [3]]), 5.0),
    "scatter_signals": lambda s: s.x.scatter(1, torch.tensor([[1, 0], [2, 3], [3, 7]]), s.y),
    "scatter_add": lambda s: zeros().scatter_add(1, AT, s.x),
    "scatter_add_rows": lambda s: zeros().scatter_add(0, AT, s.x),
    "scatter_add_where_computed": lambda s: zeros().scatter_add(1, s.i.long() % 8, s.x),
    "scatter_add_of_integers": lambda s: zeros(torch.int32).scatter_add(1, AT, s.i),
    "scatter_product": lambda s: s.y.scatter_reduce(1, AT, s.x, "prod"),
    "scatter_greatest": lambda s: zeros().scatter_reduce(1, AT, s.x, "amax"),
    "scatter_least": lambda s: zeros(torch.int8).scatter_reduce(1, AT, s.b, "amin"),
    "index_add": lambda s: zeros()[:2].index_add(0, torch.tensor([0, 1, 0]), s.x),
    "index_add_scaled": lambda s: zeros().index_add(1, AT[0], s.x, alpha=2),
    "index_copy": lambda s: s.x.index_copy(1, torch.tensor([3, 0]), s.y[:, :2]),
    "index_fill": lambda s: s.x.index_fill(1, torch.tensor([3, 0]), 7.0),
    "written_from_behind": lambda s: put(s.x, (EVERY, torch.tensor([1, -1])), s.y[:, :1]),
    "written_where_computed": lambda s: put(s.x, s.i[:2, 0] % 3, s.y[:2]),
    "written_apart": lambda s: put(
        s.x[None].repeat(2, 1, 1),
        (torch.tensor([0, 1]), EVERY, torch.tensor([1, -1])),
        s.y[:2, :3],
    ),
    "written_slice": lambda s: put(s.x, (EVERY, slice(2, 5)), 1.5),
    "written_mask": lambda s: put(s.x, s.x > 0, 0.0),
    "written_rows": lambda s: put(s.x, s.x[:, 0] > 0, 1.0),
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


class Call(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_a_long_sum_is_as_exact_as_torch() -> None:
    x = torch.rand(1, 20000) + 0.1
    got = microddsp.compile(Call(lambda x: x.cumsum(-1)), x, target="host", name="m").run(x)
    exact = x.double().cumsum(-1)
    assert float(((got - exact) / exact).abs().max()) < 1.2e-7


def test_an_index_outside_is_not_written() -> None:
    module = Call(lambda x: torch.zeros(1, 4).scatter_add(1, x.long(), x))
    x = torch.tensor([[0.0, 1.0, 1.0, 3.0]])
    model = microddsp.compile(module, x, target="host", name="m")
    torch.testing.assert_close(model.run(x), torch.tensor([[0.0, 2.0, 0.0, 3.0]]))
    outside = torch.tensor([[-1.0, 1.0, 1000.0, 4.0]])  # torch raises
    torch.testing.assert_close(model.run(outside), torch.tensor([[0.0, 1.0, 0.0, 0.0]]))


READS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "table": lambda table, i: table[i],
    "two axes": lambda table, i: table.reshape(2, 4)[i.clamp(-2, 1), i],
    "index_select": lambda table, i: table.index_select(0, i),
    "gather": lambda table, i: table.gather(0, i),
    "take": lambda table, i: table.reshape(2, 4).take(i),
    "embedding": lambda table, i: torch.nn.functional.embedding(i, table.reshape(8, 1)).flatten(),
}


@pytest.mark.parametrize("name", READS)
def test_an_index_outside_reads_the_nearest_element_and_no_other_memory(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    table = torch.arange(8.0) * 3
    model = microddsp.compile(
        Call(lambda x: READS[name](table, x[0].long())), torch.zeros(1, 8), target="host", name="m"
    )
    assert capfd.readouterr().err == ""  # TVM's own kernels warn of what they would read
    last = 3 if name == "two axes" else 7
    inside = torch.tensor([0, last, 1, 2, 0, 3, last, 1])
    if name in ("table", "two axes", "take"):  # torch refuses negative ones elsewhere
        inside[[2, 5]] -= last + 1
    torch.testing.assert_close(model.run(inside[None].float()), READS[name](table, inside))
    outside = torch.tensor([[-1e30, -100.0, 8.0, 9.0, 1e6, 1e9, 1e30, 3e38]])
    got = model.run(outside)
    assert set(got.flatten().tolist()) <= set(table.tolist())
    ends = READS[name](table, torch.tensor([0, 0, last, last]))
    assert got.flatten()[1:5].tolist() == ends[[0, 2, 2, 2]].tolist()


@pytest.mark.parametrize("how", ["mean", "amax"])
def test_a_reduction_without_the_tensor_itself_is_refused(how: str) -> None:
    module = Call(lambda x: x.scatter_reduce(1, AT, x, how, include_self=False))
    with pytest.raises(microddsp.CompileError, match=how):
        microddsp.compile(module, torch.rand(3, 8), target="host", name="m")


def test_a_running_sum_over_channels_is_no_matter_of_time() -> None:
    module = nn.Sequential(
        dsp.OnePole(100.0, sample_rate_hz=8000), Call(lambda x: x.cumsum(0).cummax(0)[0])
    )
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    got = microddsp.compile(module, x[:, :8], target="host", name="m").run(x)
    torch.testing.assert_close(got, module(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "function", [lambda x: x.cumsum(-1), lambda x: x.sort(-1)[0], lambda x: x.sort()[0]]
)
def test_along_a_stream_it_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    module = nn.Sequential(dsp.OnePole(100.0, sample_rate_hz=8000), Call(function))
    with pytest.raises(microddsp.CompileError, match="along time"):
        microddsp.compile(module, torch.zeros(1, 8), target="host", name="m")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.cumsum(0),
        lambda x: x.sort(0)[0],
        lambda x: put(x, torch.tensor([0]), 1.0),
        lambda x: torch.eye(4) @ x[:, 0],
    ],
)
def test_across_frames_it_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    module = nn.Sequential(dsp.Frames(8, 4), Call(function))
    with pytest.raises(microddsp.CompileError, match="mixes frames"):
        microddsp.compile(module, torch.zeros(1, 16), target="host", name="m")


def test_frames_are_sorted_and_summed_one_by_one() -> None:
    module = nn.Sequential(
        dsp.Frames(9, 4), Call(lambda x: x.median(-1, keepdim=True)[0] + x.cumsum(-1))
    )
    x = torch.randn(2, 48, generator=torch.Generator().manual_seed(0))
    got = microddsp.compile(module, x[:, :16], target="host", name="m").run(x)
    torch.testing.assert_close(got, module(x), rtol=1e-5, atol=1e-6)
