"""Weights in few bits: what they are rounded to, and that they learn nevertheless."""

from __future__ import annotations

import pytest
import torch

from microddsp import dsp
from microddsp.errors import ParameterError
from microddsp.training import Rounded, round_weights


@pytest.mark.parametrize("bits", [2, 5, 8, 16])
@pytest.mark.parametrize("height", [1e-6, 0.9, 127.0, 128.0, 3e7])
def test_weights_are_the_nearest_multiples_that_fit(bits: int, height: float) -> None:
    weight = height * (2 * torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 1)
    weight[0, 0] = height
    found = Rounded(bits)(weight)
    most = 2 ** (bits - 1) - 1
    step = 2.0 ** torch.ceil(torch.log2(torch.tensor(height / most)))
    whole = found / step
    assert torch.equal(whole, whole.round())
    assert float(whole.abs().max()) <= most
    assert float(whole.abs().max()) > most / 2 - 1  # no bit is left over
    assert float((found - weight).abs().max()) <= 0.5 * float(step)


def test_the_gradient_passes_straight_through() -> None:
    weight = torch.randn(4, 4).requires_grad_()
    given = torch.randn(4, 4)
    (gradient,) = torch.autograd.grad((Rounded(3)(weight) * given).sum(), weight)
    torch.testing.assert_close(gradient, given)


def test_matrices_are_rounded_and_what_a_channel_has_is_not() -> None:
    module = torch.nn.Sequential(
        dsp.Lowpass([90.0, 70.0], sample_rate_hz=1000.0), dsp.Mix([[0.3, 0.7]]), dsp.Offset([0.1])
    )
    assert round_weights(module, bits=4) == ["1.weight"]
    assert module[1].weights.tolist() == [[0.25, 0.75]]
    assert float(module[2].offset.detach()[0]) == pytest.approx(0.1)


def test_rounded_weights_learn_the_best_of_their_values() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 1, bias=False)
    round_weights(layer, bits=4)
    target = torch.tensor([[0.5, -0.875, 0.25]])
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(200):
        x = torch.randn(32, 3)
        optimiser.zero_grad()
        (layer(x) - x @ target.T).square().mean().backward()
        optimiser.step()
    torch.testing.assert_close(layer.weight.detach(), target, rtol=0, atol=0)


def test_nothing_to_round_and_bits_out_of_range_are_refused() -> None:
    with pytest.raises(ParameterError, match="no matrix"):
        round_weights(dsp.Offset(0.0))
    for bits in (1, 17, 2.5):
        with pytest.raises(ParameterError, match="bits must be"):
            Rounded(bits)
