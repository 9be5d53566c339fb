"""Filterbanks against scipy and the papers they come from."""

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

from microddsp import dsp
from microddsp.dsp.spacing import erb_centres, mel_edges
from microddsp.errors import ParameterError, SignalError

FS = 16000.0
IMPULSE = torch.zeros(1, 4000, dtype=torch.float64)
IMPULSE[0, 0] = 1.0


def stored(values: Tensor) -> np.ndarray:
    return values.detach().numpy()


@pytest.mark.parametrize("taps", [31, 64])
def test_sinc_bands_are_scipys_windowed_sinc(taps: int) -> None:
    bank = dsp.SincFilterbank(
        [30.0, 300.0, 4000.0], [300.0, 350.0, 7900.0], taps, sample_rate_hz=FS
    )
    ours = bank(IMPULSE)[:, :taps].detach().numpy()
    for row, low, high in zip(ours, stored(bank.low_hz), stored(bank.high_hz), strict=True):
        expected = scipy.signal.firwin(
            taps, [low, high], pass_zero=False, window="hamming", scale=False, fs=FS
        )
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-12)


def test_a_hop_skips_outputs() -> None:
    x = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(0))
    each = dsp.SincFilterbank.mel(5, 9, sample_rate_hz=FS)
    some = dsp.SincFilterbank.mel(5, 9, sample_rate_hz=FS, hop=4)
    torch.testing.assert_close(some(x), each(x)[..., ::4])


def test_mel_bands_lie_side_by_side() -> None:
    bank = dsp.SincFilterbank.mel(8, 9, sample_rate_hz=FS)
    np.testing.assert_allclose(stored(bank.high_hz)[:-1], stored(bank.low_hz)[1:], rtol=1e-4)
    mel = 2595 * np.log10(1 + np.array(mel_edges(8, 30.0, 7840.0, "")) / 700)
    np.testing.assert_allclose(np.diff(mel), mel[1] - mel[0])


def test_the_band_that_made_a_signal_is_learned() -> None:
    target = dsp.SincFilterbank(900.0, 1500.0, 65, sample_rate_hz=FS)
    learned = dsp.SincFilterbank(700.0, 1800.0, 65, sample_rate_hz=FS)
    x = torch.randn(4, 1, 600, generator=torch.Generator().manual_seed(0))
    y = target(x).detach()
    optimiser = torch.optim.Adam(learned.parameters(), lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        (learned(x) - y).square().mean().backward()
        optimiser.step()
    assert float(learned.low_hz.detach()) == pytest.approx(900.0, abs=2.0)
    assert float(learned.band_hz.detach()) == pytest.approx(600.0, abs=4.0)


@pytest.mark.parametrize("form", ["direct", "svf"])
def test_gammatone_filters_are_scipys(form: str) -> None:
    bank = dsp.Gammatone([500.0, 1000.0, 5000.0], sample_rate_hz=FS, form=form)
    ours = bank(IMPULSE).detach().numpy()
    for row, centre in zip(ours, stored(bank.centre_hz), strict=True):
        sections = scipy.signal.tf2sos(*scipy.signal.gammatone(centre, "iir", fs=FS))
        expected = scipy.signal.sosfilt(sections, IMPULSE[0].numpy())
        assert np.abs(row - expected).max() <= 1e-5 * np.abs(expected).max()


def test_gammatone_filters_pass_their_centre_unchanged() -> None:
    bank = dsp.Gammatone.erb(6, 100.0, 7000.0, sample_rate_hz=FS)
    with torch.no_grad():
        bank.width.raw.add_(0.3)
    n = torch.arange(8000, dtype=torch.float64)
    for i, centre in enumerate(bank.centre_hz.detach()):
        y = bank(torch.sin(2 * torch.pi * centre * n / FS)[None])[i, 4000:].detach()
        assert float(y.square().mean().sqrt()) == pytest.approx(0.5**0.5, rel=2e-3)


def test_centres_are_slaneys() -> None:
    ear_q, least, low, high, count = 9.26449, 24.7, 100.0, 8000.0, 10
    n = np.arange(1, count + 1)
    slaney = -(ear_q * least) + np.exp(
        n * (-np.log(high + ear_q * least) + np.log(low + ear_q * least)) / count
    ) * (high + ear_q * least)
    np.testing.assert_allclose(erb_centres(count, low, high, ""), slaney[::-1], rtol=1e-5)


def test_a_bank_gives_the_height_of_the_band_that_sounds() -> None:
    bank = dsp.Filterbank.mel(8, 100.0, 4000.0, sample_rate_hz=FS, hop=16, order=2)
    n = torch.arange(4000, dtype=torch.float64)[None]
    for i in (1, 4, 7):
        centre = float((bank.bands.low_hz * bank.bands.high_hz)[i].detach()) ** 0.5
        y = bank(torch.sin(2 * torch.pi * centre * n / FS)).detach()[:, -1]
        assert int(y.argmax()) == i and y.shape == (8,)


def test_a_bank_is_its_parts() -> None:
    x = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(0))
    bank = dsp.Filterbank.butterworth(
        [100.0, 900.0], [300.0, 2000.0], sample_rate_hz=FS, hop=4, release_s=0.02
    )
    for i, (low, high) in enumerate([(100.0, 300.0), (900.0, 2000.0)]):
        alone = torch.nn.Sequential(
            dsp.Bandpass(low, high, 1, sample_rate_hz=FS),
            dsp.Envelope(0.001, 0.02, sample_rate_hz=FS),
            dsp.Decimate(4),
        )
        torch.testing.assert_close(bank(x)[:, i : i + 1], alone(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "bank",
    [
        dsp.SincFilterbank(900.0, 1500.0, 5, sample_rate_hz=FS),
        dsp.Gammatone(900.0, sample_rate_hz=FS),
        dsp.Filterbank.mel(3, 100.0, 4000.0, sample_rate_hz=FS, hop=1),
    ],
)
def test_a_bank_takes_one_channel(bank: dsp.Block) -> None:
    with pytest.raises(SignalError, match="one channel, got 2"):
        bank(torch.zeros(2, 8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dsp.SincFilterbank([9.0], [20.0, 30.0], 5, sample_rate_hz=FS), "1 low and 2"),
        (lambda: dsp.SincFilterbank(90.0, 20.0, 5, sample_rate_hz=FS), "high_hz"),
        (lambda: dsp.SincFilterbank(90.0, 9000.0, 5, sample_rate_hz=FS), "below half"),
        (lambda: dsp.SincFilterbank(90.0, 200.0, 0, sample_rate_hz=FS), "taps"),
        (lambda: dsp.SincFilterbank.mel(0, 5, sample_rate_hz=FS), "bands"),
        (lambda: dsp.Gammatone(9000.0, sample_rate_hz=FS), "centre_hz"),
        (lambda: dsp.Gammatone([90.0], bandwidth=[1.0, 2.0], sample_rate_hz=FS), "bandwidths"),
        (lambda: dsp.Gammatone([90.0], bandwidth=0.0, sample_rate_hz=FS), "bandwidth"),
        (lambda: dsp.Gammatone.erb(3, 900.0, 100.0, sample_rate_hz=FS), "low_hz < high_hz"),
        (lambda: dsp.Filterbank.mel(3, -1.0, 100.0, sample_rate_hz=FS, hop=1), "low_hz"),
        (lambda: dsp.Filterbank.mel(3, 10.0, 100.0, sample_rate_hz=FS, hop=0), "factor"),
    ],
)
def test_senseless_banks_are_refused(make, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make()
