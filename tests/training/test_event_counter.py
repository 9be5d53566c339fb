"""The event counter in training: exact counts forward, useful gradients backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from microddsp import dsp
from microddsp.training import Windows, fit

RATE = 1000.0


def bumps(heights: list[float]) -> Tensor:
    """(1, samples): smooth bumps of 50 samples, one for each height."""
    one = torch.sin(torch.linspace(0, torch.pi, 50))
    return torch.cat([torch.zeros(10), *(height * one for height in heights)])[None]


def counter(threshold: float = 0.5, **more) -> dsp.EventCounter:
    return dsp.EventCounter(threshold, sample_rate_hz=RATE, **more)


def test_training_counts_exactly_what_the_device_counts() -> None:
    module, x = counter(refractory_s=0.03), torch.rand(3, 2, 400).cumsum(-1) % 1.0
    with torch.no_grad():
        expected = module(x)
    assert torch.equal(module(x.requires_grad_()).detach(), expected) and expected.min() > 0


def test_a_count_falls_with_the_threshold_and_rises_with_the_signal() -> None:
    module, x = counter(0.6), bumps([0.5, 0.7, 0.7]).requires_grad_()
    count = module(x)
    count.sum().backward()
    assert count.item() == 2.0
    assert module.level.grad is not None and module.level.grad < 0
    assert x.grad is not None
    # what moves the count are the tops near the threshold, not the valleys
    assert x.grad[0, 10:60].sum() > 0 and x.grad[0, :10].abs().max() < 0.3 * x.grad.abs().max()


def test_the_gradient_is_that_of_the_soft_crossings() -> None:
    module = counter(0.6).double()
    x = bumps([0.5, 0.7, 0.65]).double().requires_grad_()

    def soft(x: Tensor, level: Tensor) -> Tensor:
        above = (x - level) / module.gap().to(x)
        s = torch.sigmoid(4.0 * above)
        return torch.relu(torch.diff(s, dim=-1, prepend=s[..., :1])).sum()

    found = torch.autograd.grad(module(x).sum(), [x, module.level])
    h = 1e-6
    level = module.level.detach()
    by_difference = (soft(x, level + h) - soft(x, level - h)) / (2 * h)
    torch.testing.assert_close(found[1], by_difference.detach(), rtol=1e-5, atol=1e-7)
    for place in (20, 45, 90, 140):
        step = torch.zeros_like(x)
        step[0, place] = h
        change = (soft(x + step, level) - soft(x - step, level)) / (2 * h)
        torch.testing.assert_close(found[0][0, place], change.detach(), rtol=1e-4, atol=1e-7)


def test_gradients_of_the_density_are_finite_differences() -> None:
    module, x = counter(0.6).double(), bumps([0.5, 0.7]).double()
    names = [name for name, _ in module.named_parameters()]

    def total(x: Tensor, *values: Tensor) -> Tensor:
        with module.density():
            named = dict(zip(names, values, strict=True))
            return torch.func.functional_call(module, named, (x,)).sum()

    values = [p.detach().clone().requires_grad_() for p in module.parameters()]
    assert torch.autograd.gradcheck(total, (x.requires_grad_(), *values), fast_mode=True)


@pytest.mark.parametrize("start", [0.2, 0.95])
def test_a_threshold_is_learned_from_counts(start: float) -> None:
    """Too low counts the small bumps too, too high misses some at the lower gains."""
    generator = torch.Generator().manual_seed(0)
    large = torch.randint(0, 2, (8, 6), generator=generator)
    signals = torch.stack([bumps([1.0 if big else 0.4 for big in row]) for row in large])
    known = torch.ones(8, signals.shape[-1], dtype=torch.bool)
    windows = Windows(signals, known, large.sum(-1).float())
    result = fit(counter(start), windows, batch=8)
    assert result.mean_error == 0 and result.starts[0] < 0.05
    assert 0.4 < result.pipeline.threshold.item() < 0.9
