"""Impulse responses, group delay and pass bands against scipy."""

import numpy as np
import pytest
import scipy.signal
import torch

from microddsp import dsp
from microddsp.errors import MicroddspError
from microddsp.responses import frequency_response, group_delay, impulse_response, pass_band

RATE = 8000.0


def test_group_delay_is_what_scipy_says() -> None:
    b, a = scipy.signal.butter(3, 700.0, fs=RATE)
    at = np.arange(1, 900) * RATE / 8192
    _, expected = scipy.signal.group_delay((b, a), at, fs=RATE)
    impulse = impulse_response(dsp.Lowpass(700.0, 3, sample_rate_hz=RATE))
    np.testing.assert_allclose(group_delay(impulse)[0, 1:900], expected, rtol=1e-5)


def test_symmetric_taps_are_half_their_length_late_at_all_frequencies() -> None:
    impulse = impulse_response(dsp.FIR(scipy.signal.firwin(32, 900.0, fs=RATE)), 4096)
    late = group_delay(impulse)[0]
    heard = np.abs(np.fft.rfft(impulse[0])) > 1e-3
    np.testing.assert_allclose(late[heard], 15.5, rtol=1e-6)


def test_a_filter_that_starts_settled_has_the_response_of_one_that_does_not() -> None:
    plain, settled = (
        frequency_response(dsp.Highpass(500.0, 2, sample_rate_hz=RATE, initial=initial))
        for initial in ("zero", "first_sample")
    )
    np.testing.assert_allclose(settled, plain, atol=1e-9)


def test_channels_keep_their_own_responses() -> None:
    both = impulse_response(dsp.Lowpass([300.0, 600.0], 2, sample_rate_hz=RATE), channels=2)
    edges = [pass_band(row)[1] * RATE / 8192 for row in np.fft.rfft(both)]
    assert edges == pytest.approx([300.0, 600.0], rel=0.01)


def test_what_changes_with_time_has_no_response() -> None:
    class Fading(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.linspace(1, 0, x.shape[-1], dtype=x.dtype)

    with pytest.raises(MicroddspError, match="changes with time"):
        impulse_response(Fading())
    with pytest.raises(MicroddspError, match="is not linear"):
        impulse_response(dsp.Envelope(0.01, 0.1, sample_rate_hz=RATE))


def test_the_pass_band_is_the_one_around_the_peak() -> None:
    size = np.array([0.9, 0.1, 0.8, 1.0, 0.75, 0.6, 0.9])
    assert pass_band(size) == (2, 4)
    assert pass_band(np.ones(5)) == (0, 4)
