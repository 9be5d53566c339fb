"""Every operator in forward mode and under double backward; in-place changes are noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import microddsp
from microddsp import dsp
from microddsp import relax_ops as ops
from microddsp.relax_ops.logarithm import FULL

C, N = 2, 6
GENERATOR = torch.Generator()


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR).double()


def stable(*shape: int) -> Tensor:
    return 0.3 * random(*shape)


# operator -> (function of tensors, the tensors)
OPERATORS: dict[str, Callable[[], tuple[Callable, list[Tensor]]]] = {
    "sos": lambda: (ops.sos, [random(C, N), stable(2, 5), random(C, 2, 2)]),
    "sos per channel": lambda: (ops.sos, [random(C, N), stable(C, 2, 5), random(C, 2, 2)]),
    "svf": lambda: (ops.svf, [random(C, N), stable(1, 6), random(C, 1, 2)]),
    "first_order": lambda: (ops.first_order, [random(C, N), stable(3), random(C, 1)]),
    "envelope": lambda: (ops.envelope, [random(C, N), stable(2).abs() + 0.1, random(C, 1)]),
    "fir": lambda: (ops.fir, [random(3, C, N), random(3), random(3, C, 2)]),
    "fir per channel": lambda: (ops.fir, [random(C, N), random(C, 3), random(C, 2)]),
    "causal_conv1d": lambda: (
        lambda x, w, b, s: ops.causal_conv1d(x, w, b, s, 2, 1, 1),
        [random(C, N), random(3, C, 2), random(3), random(C, 1)],
    ),
    "decimate": lambda: (lambda x: ops.decimate(x, 3), [random(C, N)]),
    "frames": lambda: (lambda x, s: ops.frames(x, 4, 2, s), [random(C, N), random(C, 2)]),
    "first_sample": lambda: (
        lambda x, g, z, h: ops.first_sample(x, g, z, h, torch.zeros(1, dtype=torch.int32))[:2],
        [random(C, N), random(2, 2), random(C, 2, 2), random(C, 1)],
    ),
    "delay": lambda: (lambda x, s: ops.delay(x, 2, s), [random(C, N), random(C, 2)]),
    "tapped_delay": lambda: (
        lambda x, t, s: ops.tapped_delay(x, t, torch.tensor([1], dtype=torch.int32), s),
        [random(C, N), random(2), random(C, 3)],
    ),
    "resample": lambda: (
        lambda x, t, s: ops.resample(x, t, s, 2, 3),
        [random(C, N), random(6), random(C, 2)],
    ),
    "recurrence": lambda: (
        lambda x, p, z: ops.recurrence(x, p, z, "1 1; mul p0 z0; tanh v0; add x0 v1 | v2 | v1"),
        [random(C, N), random(1), random(C, 1)],
    ),
    "oscillator": lambda: (
        ops.oscillator,
        [random(C, N), torch.tensor([9e5, 5e6, 0.2, 9.0]).double(), random(C, 3)],
    ),
    "noise": lambda: (ops.noise, [random(C, N), random(1), random(C, 3).abs() * 100]),
    "peaks": lambda: (
        lambda *values: ops.peaks(*values)[1],
        [
            random(C, N),
            random(C, N),
            torch.tensor([0.3, 0.1, 2.0, 5.0]).double(),
            random(C, 4),
        ],
    ),
    "swept": lambda: (
        ops.swept,
        [
            random(C, N),
            random(C, N),
            torch.tensor([0.4, -0.8, 1.9, 0.7, 0.2, 0.5, 1.0]).double(),
            random(C, 2),
        ],
    ),
    "swept_quality": lambda: (
        ops.swept_quality,
        [
            random(C, N),
            random(C, N),
            random(C, N),
            torch.tensor([0.4, 0.05, 1.9, 0.4, 1.6, 0.2, 0.5, 1.0]).double(),
            random(C, 2),
        ],
    ),
    "swept_delay": lambda: (
        lambda x, d, s: ops.swept_delay(x, 2.0 * d, s, torch.tensor([[1], [3]]).int())[:2],
        [random(C, N), random(C, N), random(C, 5)],
    ),
    "player": lambda: (
        ops.player,
        [random(C, N), torch.tensor([1.0, 0.7, 3.3, 1.0, -3.3]).double(), random(C, 3)],
    ),
    "table": lambda: (ops.table, [random(C, N) + 1.0, random(4)]),
    "between": lambda: (
        lambda share, values: ops.between(torch.ones(C, N).double(), share, values),
        [random(C, N), random(C, 4)],
    ),
    "logarithm": lambda: (
        lambda x: ops.logarithm(x, 0.1, 1e-3, 2.0, 0.5, FULL),
        [random(C, N).abs() + 0.5],
    ),
    "rfft": lambda: (ops.rfft, [random(C, 8)]),
    "spectrum": lambda: (lambda x, w: ops.spectrum(x, w, 2), [random(3, C, 8), random(8)]),
    "bands": lambda: (ops.bands, [random(C, 4, N).abs(), random(2, 4)]),
}


def problem(name: str) -> tuple[Callable, list[Tensor]]:
    GENERATOR.manual_seed(0)
    function, values = OPERATORS[name]()
    return function, [value.requires_grad_() for value in values]


def test_every_operator_with_a_gradient_is_here() -> None:
    from microddsp.cli.operators import OPERATORS as LISTED

    listed = {line.name for line in LISTED if line.kind == "operator"}
    assert listed - {name.split()[0] for name in OPERATORS} <= {"event_counter", "moving_max"}


@pytest.mark.parametrize("name", OPERATORS)
def test_forward_mode_is_right(name: str) -> None:
    function, values = problem(name)
    assert gradcheck(function, values, check_forward_ad=True, check_backward_ad=True)


@pytest.mark.parametrize("name", OPERATORS)
def test_second_derivatives_are_right(name: str) -> None:
    function, values = problem(name)
    assert gradgradcheck(function, values)


@pytest.mark.parametrize("name", OPERATORS)
def test_vmap_and_jacobians_of_torch_func_are_right(name: str) -> None:
    function, values = problem(name)
    x, *rest = (value.detach() for value in values)

    def first(x: Tensor) -> Tensor:
        result = function(x, *rest)
        return result[0] if isinstance(result, tuple) else result

    one, other = torch.func.jacrev(first)(x), torch.func.jacfwd(first)(x)
    expected = torch.autograd.functional.jacobian(first, x)
    torch.testing.assert_close(one, expected)
    torch.testing.assert_close(other, expected)


@pytest.mark.parametrize("which", [0, 1, 2, "output"])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_change_in_place_before_the_backward_pass_raises_or_does_no_harm(
    name: str, which: int | str
) -> None:
    function, values = problem(name)
    if which != "output" and which >= len(values):
        which = 0
    result = function(*values)
    y = result[0] if isinstance(result, tuple) else result
    expected = torch.autograd.grad(y.sum(), values, retain_graph=True, allow_unused=True)
    loss = y.sum()
    with torch.no_grad():
        (y if which == "output" else values[which]).mul_(3.0)
    try:
        found = torch.autograd.grad(loss, values, allow_unused=True)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
        return
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_a_result_that_is_changed_in_place_leaves_inputs_and_states_alone() -> None:
    for name in OPERATORS:
        function, values = problem(name)
        values = [value.detach() for value in values]
        before = [value.clone() for value in values]
        result = function(*values)
        for y in result if isinstance(result, tuple) else (result,):
            y.mul_(7.0)
        assert all(torch.equal(a, b) for a, b in zip(values, before, strict=True)), name


def test_the_gradient_through_an_inner_training_step_is_right() -> None:
    """d(loss after a step)/d(learning rate, start values): what a hyper-parameter learns from."""
    truth = dsp.Biquad.lowpass(200.0, 2.0, sample_rate_hz=1000.0).double()
    module = torch.nn.Sequential(
        dsp.Biquad.lowpass(100.0, 1.0, sample_rate_hz=1000.0),
        dsp.Envelope(0.002, 0.02, sample_rate_hz=1000.0),
    ).double()
    x = torch.randn(1, 40, generator=torch.Generator().manual_seed(0)).double()
    target = torch.nn.Sequential(truth, module[1])(x).detach()
    start = {n: p.detach().clone() for n, p in module.named_parameters()}

    def loss(values: dict[str, Tensor]) -> Tensor:
        return (torch.func.functional_call(module, values, (x,)) - target).square().mean()

    def after_step(rate: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip(start, values, strict=True))
        slopes = torch.autograd.grad(loss(named), list(named.values()), create_graph=True)
        return loss({n: v - rate * g for (n, v), g in zip(named.items(), slopes, strict=True)})

    rate = torch.tensor(0.3).double().requires_grad_()
    leaves = [value.requires_grad_() for value in start.values()]
    assert gradcheck(after_step, (rate, *leaves), eps=1e-5)
    learned = [rate.detach().clone().requires_grad_()]
    optimizer = torch.optim.Adam(learned, lr=0.5)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        value = after_step(learned[0], *leaves)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.8 * losses[0]


def test_forward_mode_goes_through_a_stream_of_chunks() -> None:
    module = dsp.Bandpass(60.0, 160.0, 2, sample_rate_hz=1000.0).double()
    x = torch.randn(1, 24, generator=torch.Generator().manual_seed(0)).double()

    def chunks(x: Tensor) -> Tensor:
        one, state = microddsp.step(module, x[..., :10])
        return torch.cat([one, microddsp.step(module, x[..., 10:], state)[0]], -1)

    tangent = torch.ones_like(x)
    streamed = torch.func.jvp(chunks, (x,), (tangent,))[1]
    torch.testing.assert_close(streamed, torch.func.jvp(module, (x,), (tangent,))[1])
    assert streamed.abs().max() > 0
