"""A direct form that float32 would spoil is warned of, with its measured error; others are not."""

import re
import warnings

import numpy as np
import pytest
import torch
from scipy import signal

from microddsp import compile as compile_pipeline
from microddsp import dsp
from microddsp.errors import PrecisionWarning

RATE = 16_000.0


def lowpass(cutoff_hz: float, form: str, order: int = 3) -> dsp.Lowpass:
    return dsp.Lowpass(cutoff_hz, order, sample_rate_hz=RATE, form=form)


@pytest.mark.parametrize("cutoff_hz", [1.0, 4.0])
def test_a_low_direct_form_is_warned_of_with_its_error(cutoff_hz: float) -> None:
    module = lowpass(cutoff_hz, "direct")
    with pytest.warns(PrecisionWarning, match='form="svf"') as caught:
        compile_pipeline(torch.nn.Sequential(module), torch.zeros(1, 64), target="host")
    assert caught[0].filename == __file__
    said = re.search(r"off by (\S+) %", str(caught[0].message))
    assert said
    x = torch.rand(1, 1 << 16)
    exact = signal.sosfilt(
        signal.butter(3, cutoff_hz, fs=RATE, output="sos"), x[0].double().numpy()
    )
    with torch.no_grad():
        found = module(x)[0].numpy()
    error = 100 * np.abs(found - exact).max() / np.abs(exact).max()
    assert error / 3 < float(said[1]) < error * 3
    with torch.no_grad():
        precise = lowpass(cutoff_hz, "svf")(x)[0].numpy()
    assert np.abs(precise - exact).max() < 1e-4 * np.abs(exact).max()


@pytest.mark.parametrize(
    "module",
    [
        lowpass(1.0, "auto"),
        lowpass(200.0, "direct"),
        dsp.Highpass(0.5, 5, sample_rate_hz=RATE),
        dsp.Bandpass([0.5, 30.0], [2.0, 60.0], 3, sample_rate_hz=RATE),
        dsp.SOS(signal.butter(4, 1.0, fs=RATE, output="sos"), sample_rate_hz=RATE),
        dsp.DCBlocker(1.0, sample_rate_hz=RATE),
    ],
    ids=repr,
)
def test_what_is_precise_is_not_warned_of(module: torch.nn.Module) -> None:
    channels = 2 if isinstance(module, dsp.Bandpass) else 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrecisionWarning)
        compile_pipeline(module, torch.zeros(channels, 64), target="host")
