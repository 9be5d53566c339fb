"""Losses: against numpy, scipy and torch; masks leave out what nobody knows, NaN included."""

from functools import partial

import numpy as np
import pytest
import scipy.signal
import torch

from microddsp.errors import ParameterError, SignalError
from microddsp.training import count_loss, losses, spectral_losses

RATE = 8000.0
SIGNAL_LOSSES = {
    "l1": losses.l1,
    "l2": losses.l2,
    "log_cosh": losses.log_cosh,
    "envelope": partial(losses.envelope, window_s=0.008, sample_rate_hz=RATE),
    "spectral": partial(spectral_losses.spectral, size=256),
    "multi_resolution": partial(spectral_losses.multi_resolution_spectral, sizes=(64, 256)),
    "mel": partial(spectral_losses.mel, sample_rate_hz=RATE, bands=12, size=256),
}


def signals(seed: int = 0, samples: int = 1024) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 1, samples)
    one, other = (torch.randn(shape, generator=generator).double() for _ in range(2))
    return one, other


@pytest.mark.parametrize("name", SIGNAL_LOSSES)
def test_a_loss_is_zero_for_equal_signals_and_positive_for_others(name: str) -> None:
    one, other = signals()
    assert SIGNAL_LOSSES[name](one, one).abs() < 1e-6
    assert SIGNAL_LOSSES[name](one, other) > 1e-3


@pytest.mark.parametrize("name", SIGNAL_LOSSES)
def test_gradients_of_a_loss_are_finite_differences(name: str) -> None:
    one, other = signals(samples=300)
    one = one[:1].requires_grad_()
    direction = torch.randn(one.shape, generator=torch.Generator().manual_seed(3)).double()
    (gradient,) = torch.autograd.grad(SIGNAL_LOSSES[name](one, other[:1]), one)
    epsilon = 1e-6
    with torch.no_grad():
        up, down = (
            SIGNAL_LOSSES[name](one + sign * epsilon * direction, other[:1]) for sign in (1, -1)
        )
    torch.testing.assert_close(
        (gradient * direction).sum(), (up - down) / (2 * epsilon), rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("name", SIGNAL_LOSSES)
def test_what_nobody_knows_changes_neither_loss_nor_gradient(name: str) -> None:
    one, other = signals()
    known = torch.ones(2, 1024, dtype=torch.bool)
    known[0, 100:260] = False
    known[1] = False
    spoilt = other.clone()
    spoilt[~known[:, None]] = torch.nan
    learned = one.clone().requires_grad_()
    loss = SIGNAL_LOSSES[name](learned, spoilt, known)
    (gradient,) = torch.autograd.grad(loss, learned)
    assert torch.isfinite(loss) and loss > 0
    assert torch.isfinite(gradient).all() and gradient[0].abs().sum() > 0
    assert not gradient[~known[:, None]].any()
    changed = torch.where(known[:, None], one, 77.0)
    assert torch.equal(SIGNAL_LOSSES[name](changed, other, known), loss.detach())


@pytest.mark.parametrize("name", SIGNAL_LOSSES)
def test_where_nothing_is_known_the_loss_is_zero_and_its_gradient_too(name: str) -> None:
    one, other = signals()
    learned = one.clone().requires_grad_()
    loss = SIGNAL_LOSSES[name](learned, other * torch.nan, torch.zeros(2, 1024, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss, learned)
    assert loss == 0 and not gradient.any()


@pytest.mark.parametrize("name", SIGNAL_LOSSES)
def test_shapes_that_would_broadcast_are_refused(name: str) -> None:
    one, other = signals()
    with pytest.raises(SignalError, match="target"):
        SIGNAL_LOSSES[name](one, other[:, 0])
    with pytest.raises(SignalError, match="known"):
        SIGNAL_LOSSES[name](one, other, torch.ones(1024, dtype=torch.bool))


def test_simple_losses_are_what_numpy_says() -> None:
    one, other = signals()
    d = (one - other).numpy()
    assert losses.l1(one, other).item() == pytest.approx(np.abs(d).mean())
    assert losses.l2(one, other).item() == pytest.approx((d**2).mean())
    assert losses.log_cosh(one, other).item() == pytest.approx(np.log(np.cosh(d)).mean())
    far = torch.full((1, 1, 4), 1e4)
    assert losses.log_cosh(far, -far).item() == pytest.approx(2e4 - np.log(2))


def test_the_spectral_loss_is_the_formula_on_scipys_spectrum() -> None:
    one, other = signals()

    def magnitude(x: torch.Tensor) -> np.ndarray:
        window = scipy.signal.get_window("hann", 256)
        transform = scipy.signal.ShortTimeFFT(window, 64, RATE, scale_to=None)
        first, last = transform.lower_border_end[1], transform.upper_border_begin(1024)[1]
        inside = slice(first - transform.p_min, last - transform.p_min)
        return 2 * np.abs(transform.stft(x.numpy()))[..., inside] / window.sum()

    a, b = magnitude(one[:, 0]), magnitude(other[:, 0])
    convergence = np.linalg.norm(a - b, axis=(1, 2)) / np.linalg.norm(b, axis=(1, 2))
    logs = np.abs(np.log(a + 1e-6) - np.log(b + 1e-6)).mean()
    found = spectral_losses.spectral(one, other, size=256)
    assert found.item() == pytest.approx(convergence.mean() + logs, rel=1e-4)


def test_against_silence_the_spectral_loss_stays_a_sane_number() -> None:
    one, _ = signals()
    silent = torch.zeros_like(one)
    assert 1 < spectral_losses.spectral(one, silent, size=256) < 30
    assert spectral_losses.spectral(silent, silent, size=256) == 0


def test_mel_bands_are_triangles_that_peak_at_equal_steps_of_mel() -> None:
    weights = spectral_losses.mel_weights(2048, 20, RATE, 0.0, RATE / 2)
    peaks = weights.argmax(1) * RATE / 2048
    mel = 2595 * np.log10(1 + peaks / 700)
    np.testing.assert_allclose(np.diff(mel), 2595 * np.log10(1 + 4000 / 700) / 21, rtol=0.1)
    assert weights.max() <= 1 and (weights.max(1) > 0.8).all()
    with pytest.raises(ParameterError, match="tell apart"):
        spectral_losses.mel_weights(64, 60, RATE, 0.0, RATE / 2)
    with pytest.raises(ParameterError, match="fit between"):
        spectral_losses.mel_weights(64, 4, RATE, 3000.0, 300.0)


def test_the_envelope_loss_ignores_phase() -> None:
    t = torch.arange(1600) / RATE
    one = torch.sin(2 * torch.pi * 500 * t)[None]
    shifted = torch.cos(2 * torch.pi * 500 * t)[None]
    loss = partial(losses.envelope, window_s=0.016, sample_rate_hz=RATE)
    assert loss(one, shifted) < 1e-4
    assert loss(one, 0.5 * shifted).item() == pytest.approx(0.5 / 2**0.5, rel=1e-3)


def test_weak_labels_move_events_in_the_right_direction() -> None:
    events = torch.full((2, 1, 10), 0.02).requires_grad_()
    contains = torch.tensor([True, False])
    loss = losses.contains_event(events, contains)
    (gradient,) = torch.autograd.grad(loss, events)
    assert (gradient[0] < 0).all() and (gradient[1] > 0).all()
    sure = torch.zeros(2, 1, 10)
    sure[0, 0, 3] = 12.0
    assert losses.contains_event(sure, contains) < 0.001
    known = torch.ones(2, 10, dtype=torch.bool)
    known[0, 3] = False
    assert losses.contains_event(sure, contains, known) > 3
    silent = torch.zeros(2, 1, 10, requires_grad=True)
    assert torch.autograd.grad(losses.contains_event(silent, contains), silent)[0][0].lt(0).all()
    with pytest.raises(SignalError, match="labels"):
        losses.contains_event(events, contains[:1])


def test_the_count_loss_leaves_out_windows_that_nobody_counted() -> None:
    counted, counts = torch.tensor([3.0, 9.0]), torch.tensor([2.0, torch.nan])
    known = torch.tensor([True, False])
    assert count_loss(counted, counts, known) == 0.5
    with pytest.raises(SignalError, match="fit"):
        count_loss(counted, counts[:1])
