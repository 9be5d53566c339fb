"""Pictures of a training, and the responses that they show."""

import matplotlib.image
import numpy as np
import pytest
import scipy.signal
import torch

from microddsp import dsp
from microddsp.errors import MicroddspError, ParameterError
from microddsp.training import Row
from microddsp.training.plots import frequency_response, plot_history, plot_responses

RATE = 8000.0


def test_a_response_is_what_scipy_says() -> None:
    b, a = scipy.signal.butter(3, 700.0, fs=RATE)
    expected = scipy.signal.freqz(b, a, 4097, include_nyquist=True)[1]
    found = frequency_response(dsp.Lowpass(700.0, 3, sample_rate_hz=RATE))
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_what_is_not_linear_has_no_response() -> None:
    for module in (dsp.Envelope(0.01, 0.1, sample_rate_hz=RATE), dsp.Decimate(2)):
        with pytest.raises(MicroddspError, match="is not linear"):
            frequency_response(module)


def test_pictures_show_every_value(tmp_path) -> None:
    rows = [Row(n, 1 / (n + 1), 0.1, {"f0_hz": 100.0 + n, "q": 1.0}) for n in range(5)]
    plot_history(rows, tmp_path / "history.png", targets={"f0_hz": 103.0})
    plot_history([Row(0, 0.0, 0.1, {})], tmp_path / "one.png")
    wide, narrow = (matplotlib.image.imread(tmp_path / f"{n}.png") for n in ("history", "one"))
    assert wide.shape[1] == 3 * narrow.shape[1]
    filters = {"a": dsp.Gain(1.0), "b": dsp.Lowpass(700.0, sample_rate_hz=RATE)}
    plot_responses(filters, tmp_path / "response.png", sample_rate_hz=RATE)
    assert matplotlib.image.imread(tmp_path / "response.png").std() > 0.01
    with pytest.raises(ParameterError, match="no step"):
        plot_history([], tmp_path / "none.png")
    with pytest.raises(MicroddspError, match="cannot be written"):
        plot_history(rows, tmp_path / "no" / "folder.png")
    torch.testing.assert_close(filters["a"].gain.item(), 1.0)
