"""Sample-wise operators against scipy, finite differences, and their own chunks."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microddsp.errors import SignalError
from microddsp.relax_ops import (
    envelope,
    first_order,
    noise,
    oscillator,
    peaks,
    player,
    sos,
    svf,
    swept,
    swept_quality,
)
from microddsp.relax_ops.sample_operator import SAMPLE_OPERATORS
from microddsp.relax_ops.torch_operator import plain

Operator = Callable[..., tuple[torch.Tensor, ...]]


def sos_of(order: int) -> torch.Tensor:
    q = scipy.signal.butter(order, [0.1, 0.3], "bandpass", output="sos")
    return torch.tensor(q[:, [0, 1, 2, 4, 5]])


def svf_of(sections: int) -> torch.Tensor:
    g, k = np.tan(np.pi * 0.05), 0.7
    a1 = 1 / (1 + g * (g + k))
    return torch.tensor([[a1, g * a1, g * g * a1, 0.2, 0.5, 1.0]] * sections).double()


CASES = {
    "sos": (sos, lambda: sos_of(2), (2, 2)),
    "svf": (svf, lambda: svf_of(2), (2, 2)),
    "first_order": (first_order, lambda: torch.tensor([0.5, 0.2, -0.7]).double(), (1,)),
    "oscillator": (
        oscillator,
        lambda: torch.tensor([900.0, 5e6, 0.2, 90.0]).double(),
        (3,),
    ),
    "noise": (noise, lambda: torch.tensor([0.3]).double(), (3,)),
    "player": (player, lambda: torch.tensor([1.0, 0.7, 5.3, 1.0, -5.3]).double(), (3,)),
    "peaks": (peaks, lambda: torch.tensor([0.3, 0.1, 2.0, 5.0]).double(), (4,)),
    "swept": (
        swept,
        lambda: torch.tensor([0.4, -0.8, 1.9, 0.7, 0.2, 0.5, 1.0]).double(),
        (2,),
    ),
    "swept_quality": (
        swept_quality,
        lambda: torch.tensor([0.4, 0.05, 1.9, 0.4, 1.6, 0.2, 0.5, 1.0]).double(),
        (2,),
    ),
    "envelope": (envelope, lambda: torch.tensor([0.4, 0.05]).double(), (1,)),
}
every_case = pytest.mark.parametrize("name", sorted(CASES))


def arguments(name: str, *batch: int, samples: int, per_channel: bool = False):
    operator, make, state_shape = CASES[name]
    coefficients = make()
    if per_channel:
        scale = torch.linspace(0.8, 1.0, batch[-1]).double()
        coefficients = coefficients * scale.reshape(-1, *([1] * coefficients.dim()))
    generator = torch.Generator().manual_seed(3)
    shapes = [(*batch, samples)] * len(SAMPLE_OPERATORS[name].inputs) + [(*batch, *state_shape)]
    *signals, state = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    return operator, *signals, coefficients, state


def test_sections_equal_scipy_with_its_own_state() -> None:
    q = scipy.signal.butter(3, [0.1, 0.3], "bandpass", output="sos")
    rng = np.random.default_rng(0)
    x, zi = rng.standard_normal((4, 333)), rng.standard_normal((3, 4, 2))
    expected, last = scipy.signal.sosfilt(q, x, zi=zi)
    y, state = sos(
        torch.tensor(x), torch.tensor(q[:, [0, 1, 2, 4, 5]]), torch.tensor(zi.transpose(1, 0, 2))
    )
    np.testing.assert_allclose(y, expected, atol=1e-12)
    np.testing.assert_allclose(state, last.transpose(1, 0, 2), atol=1e-12)


def test_a_first_order_section_equals_lfilter() -> None:
    x = np.random.default_rng(1).standard_normal((2, 100))
    y, _ = first_order(
        torch.tensor(x),
        torch.tensor([0.5, 0.2, -0.7], dtype=torch.float64),
        torch.zeros(2, 1).double(),
    )
    np.testing.assert_allclose(y, scipy.signal.lfilter([0.5, 0.2], [1, -0.7], x), atol=1e-12)


def test_a_state_variable_low_pass_equals_the_bilinear_biquad() -> None:
    g, k = np.tan(np.pi * 0.05), 0.7
    a1 = 1 / (1 + g * (g + k))
    x = np.random.default_rng(2).standard_normal((1, 200))
    coefficients = torch.tensor([[a1, g * a1, g * g * a1, 0.0, 0.0, 1.0]]).double()
    y, _ = svf(torch.tensor(x), coefficients, torch.zeros(1, 1, 2).double())
    b = np.array([1, 2, 1]) * g * g * a1
    a = np.array([1 + g * k + g * g, 2 * (g * g - 1), 1 - g * k + g * g]) * a1
    np.testing.assert_allclose(y, scipy.signal.lfilter(b, a, x), atol=1e-12)


def test_an_envelope_rises_by_attack_and_falls_by_release() -> None:
    x = np.abs(np.random.default_rng(4).standard_normal(50))
    e, expected = 0.0, []
    for value in x:
        d = value - e
        e += (0.4 if d > 0 else 0.05) * d
        expected.append(e)
    y, state = envelope(
        torch.tensor(x)[None], torch.tensor([0.4, 0.05]).double(), torch.zeros(1, 1).double()
    )
    np.testing.assert_allclose(y[0], expected, rtol=1e-6)
    assert state.item() == y[0, -1].item()


@every_case
@pytest.mark.parametrize("batch", [(1,), (3,), (2, 3)])
@pytest.mark.parametrize("per_channel", [False, True])
def test_gradients_pass_gradcheck(name: str, batch: tuple[int, ...], per_channel: bool) -> None:
    operator, *leaves = arguments(name, *batch, samples=11, per_channel=per_channel)
    for leaf in leaves:
        leaf.requires_grad_()
    assert torch.autograd.gradcheck(operator, tuple(leaves))


@every_case
def test_the_torch_operator_passes_opcheck(name: str) -> None:
    _, *leaves = arguments(name, 2, samples=9)
    for leaf in leaves:
        leaf.requires_grad_()
    torch.library.opcheck(getattr(torch.ops.microddsp, name).default, tuple(leaves))


@every_case
@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(1, 9))
def test_any_chunking_equals_the_whole(name: str, sizes: list[int], channels: int) -> None:
    operator, *signals, coefficients, state = arguments(name, channels, samples=sum(sizes))
    *whole, last = operator(*signals, coefficients, state)
    parts = []
    for part in zip(*(x.split(sizes, -1) for x in signals), strict=True):
        *outputs, state = operator(*part, coefficients, state)
        parts.append(outputs)
    joined = [torch.cat(y, -1) for y in zip(*parts, strict=True)]
    torch.testing.assert_close(joined, whole, rtol=0, atol=0)
    torch.testing.assert_close(state, last, rtol=0, atol=0)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(1,), (5,), (2, 8)])
def test_the_plain_torch_recursion_gives_the_same(name, dtype, batch) -> None:
    operator, *values = arguments(name, *batch, samples=37)
    values = [v.to(dtype) for v in values]
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {}
    expected = plain(SAMPLE_OPERATORS[name], *values)
    torch.testing.assert_close(operator(*values), expected, **tolerance)


@every_case
@pytest.mark.parametrize("channels", [1, 8])
def test_float32_stays_close_to_float64(name: str, channels: int) -> None:
    operator, *leaves = arguments(name, channels, samples=3000)
    results = {}
    for dtype in (torch.float32, torch.float64):
        given = [leaf.to(dtype).requires_grad_() for leaf in leaves]
        *outputs, last = operator(*given)
        loss = sum(y.square().mean() for y in outputs)
        gradients = torch.autograd.grad(loss, given, allow_unused=True, materialize_grads=True)
        results[dtype] = [*outputs, last, *gradients]
    for single, double in zip(results[torch.float32], results[torch.float64], strict=True):
        assert (single - double).abs().max() <= 1e-5 * double.abs().max()


@every_case
def test_results_may_be_changed_in_place(name: str) -> None:
    operator, *signals, coefficients, state = arguments(name, 3, samples=9)
    coefficients.requires_grad_()
    for result in operator(*signals, coefficients, state):
        result.mul_(2.0)  # torch refuses this for views
    *outputs, _ = operator(*signals, coefficients, state)
    sum(y.mul_(2.0).sum() for y in outputs).backward()
    *outputs, _ = operator(*signals, coefficients, state)
    once = torch.autograd.grad(sum(y.sum() for y in outputs), coefficients)
    torch.testing.assert_close(coefficients.grad, 2 * once[0])


@every_case
def test_transforms_of_torch_func_see_the_same_derivatives(name: str) -> None:
    operator, *signals, coefficients, state = arguments(name, 2, samples=7)

    def output(c: torch.Tensor) -> torch.Tensor:
        return torch.stack(operator(*signals, c, state)[:-1])

    expected = torch.autograd.functional.jacobian(output, coefficients)
    torch.testing.assert_close(torch.func.jacrev(output)(coefficients), expected)
    torch.testing.assert_close(torch.func.jacfwd(output)(coefficients), expected)


def test_a_changed_output_that_the_gradient_needs_is_noticed() -> None:
    operator, x, coefficients, state = arguments("sos", 8, samples=9)
    y, _ = operator(x, coefficients.requires_grad_(), state)
    y.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile_sees_one_operator(dynamic: bool) -> None:
    operator, *values = arguments("sos", 2, samples=30)
    compiled = torch.compile(operator, backend="aot_eager", dynamic=dynamic, fullgraph=True)
    coefficients = values[1].requires_grad_()
    for samples in (30, 17):
        x = values[0][..., :samples]
        results = [run(x, coefficients, values[2])[0] for run in (compiled, operator)]
        gradients = [torch.autograd.grad(y.square().sum(), coefficients)[0] for y in results]
        torch.testing.assert_close(results[0], results[1])
        torch.testing.assert_close(gradients[0], gradients[1])


@every_case
def test_the_plain_torch_recursion_has_the_same_gradients(name: str) -> None:
    operator, *leaves = arguments(name, 2, samples=13)
    for leaf in leaves:
        leaf.requires_grad_()
    kernel = torch.autograd.grad(sum(v.square().sum() for v in operator(*leaves)), leaves)
    slow = torch.autograd.grad(
        sum(v.square().sum() for v in plain(SAMPLE_OPERATORS[name], *leaves)), leaves
    )
    torch.testing.assert_close(kernel, slow)


def test_signals_need_not_be_contiguous() -> None:
    operator, x, coefficients, state = arguments("sos", 2, 3, samples=20)
    turned = x.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(
        operator(turned, coefficients, state), operator(x, coefficients, state)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, c, s: (x[0], c, s), "channels, samples"),
        (lambda x, c, s: (x.int(), c, s), "float32 or float64"),
        (lambda x, c, s: (x, c.float(), s), "coefficients must be"),
        (lambda x, c, s: (x, c[:, :4], s), "five coefficients"),
        (lambda x, c, s: (x, c.expand(7, 2, 5), s), "each of 2"),
        (lambda x, c, s: (x, c, s[:1]), "state must have shape"),
    ],
)
def test_what_does_not_fit_is_refused(change, message: str) -> None:
    operator, *values = arguments("sos", 2, samples=8)
    with pytest.raises(SignalError, match=message):
        operator(*change(*values))
