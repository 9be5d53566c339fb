"""Spectral blocks: their published definitions, chunks, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import microddsp
from microddsp import dsp
from microddsp.errors import ParameterError, SignalError

FS = 16000.0
LENGTH, HOP = 64, 16


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def power(*shape: int) -> Tensor:
    return noise(*shape).square() + 0.01


def torch_stft(x: Tensor, window: Tensor, length: int, hop: int) -> Tensor:
    """(..., channels, bins, frames), complex, without centring, of a signal after zeros."""
    padded = torch.nn.functional.pad(x, (length - hop, 0))
    rows = padded.reshape(-1, padded.shape[-1])
    y = torch.stft(
        rows, length, hop, len(window), window, center=False, return_complex=True, onesided=True
    )
    return y.reshape(*x.shape[:-1], *y.shape[-2:])


# ---- transforms


@pytest.mark.parametrize(
    ("length", "hop", "window_length"), [(64, 16, 64), (64, 64, 50), (30, 7, 9)]
)
def test_stft_is_torchs_without_centring(length: int, hop: int, window_length: int) -> None:
    x = noise(2, 3, hop * 9)
    y = dsp.STFT(length, hop, window_length=window_length)(x)
    window = torch.hann_window(window_length, dtype=torch.float64)
    expected = torch_stft(x, window, length, hop)
    torch.testing.assert_close(
        torch.view_as_complex(y), expected.movedim(-1, 1), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("window", ["hamming", ("kaiser", 8.0), torch.linspace(0.1, 1, LENGTH)])
@pytest.mark.parametrize("exponent", [1, 2])
def test_a_spectrogram_is_the_power_of_stft(window: dsp.spectrum.Window, exponent: int) -> None:
    x = noise(2, 3, HOP * 9)
    given = window
    if not isinstance(window, Tensor):
        given = torch.from_numpy(scipy.signal.get_window(window, LENGTH))
    expected = torch_stft(x, given.double(), LENGTH, HOP).abs() ** exponent
    y = dsp.Spectrogram(LENGTH, HOP, window=window, power=exponent)(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


def test_a_power_spectrum_of_frames_is_a_spectrogram() -> None:
    x = noise(2, 3, HOP * 5)
    frames = dsp.Frames(LENGTH, HOP)(x)
    expected = dsp.Spectrogram(LENGTH, HOP)(x)
    torch.testing.assert_close(dsp.PowerSpectrum(LENGTH)(frames), expected, rtol=0, atol=0)
    assert dsp.RFFT()(frames).shape == (2, 5, 3, LENGTH // 2 + 1, 2)


# ---- bands


def mel_triangles(
    bands: int, length: int, low_hz: float, high_hz: float, norm: str | None, scale: str
) -> np.ndarray:
    """(bands, bins), written as the sloped lines of the published Python versions."""
    if scale == "htk":
        edges = np.linspace(*(2595 * np.log10(1 + np.array([low_hz, high_hz]) / 700)), bands + 2)
        hz = 700 * (10 ** (edges / 2595) - 1)
    else:
        # linear to 1000 Hz = 15 mel; then 27 steps to 6400 Hz
        step = np.log(6.4) / 27
        limits = [
            f * 3 / 200 if f < 1000 else 15 + np.log(f / 1000) / step for f in (low_hz, high_hz)
        ]
        edges = np.linspace(*limits, bands + 2)
        hz = np.where(edges < 15, edges * 200 / 3, 1000 * np.exp(step * (edges - 15)))
    bins = np.linspace(0, FS / 2, length // 2 + 1)
    apart = np.diff(hz)
    slopes = hz[None] - bins[:, None]
    down, up = -slopes[:, :-2] / apart[:-1], slopes[:, 2:] / apart[1:]
    table = np.maximum(0, np.minimum(down, up)).T
    if norm == "slaney":
        table *= (2 / (hz[2:] - hz[:-2]))[:, None]
    return table


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("norm", [None, "slaney"])
@pytest.mark.parametrize("learnable", [False, True])
def test_mel_bands_are_the_published_triangles(
    scale: str, norm: str | None, learnable: bool
) -> None:
    block = dsp.MelFilterbank(
        20,
        512,
        sample_rate_hz=FS,
        f_min_hz=60.0,
        f_max_hz=7000.0,
        norm=norm,
        mel_scale=scale,
        learnable=learnable,
    )
    x = power(2, 257, 3)
    expected = mel_triangles(20, 512, 60.0, 7000.0, norm, scale) @ x.numpy()
    np.testing.assert_allclose(block(x).detach(), expected, rtol=1e-6, atol=1e-12)


def test_both_mel_scales_have_their_published_points() -> None:
    slaney = dsp.MelFilterbank(8, 512, sample_rate_hz=FS, f_max_hz=6400.0, mel_scale="slaney")
    # nine steps of 42 / 9 mel up to 6400 Hz, which is 42
    assert slaney.edges_hz()[3].item() == pytest.approx(14.0 * 200 / 3)
    assert slaney.edges_hz()[-1].item() == pytest.approx(6400.0)
    htk = dsp.MelFilterbank(1, 512, sample_rate_hz=FS, f_max_hz=7000.0)
    assert htk.edges_hz()[1].item() == pytest.approx(700 * (11**0.5 - 1))


def test_learned_edges_stay_in_order_between_the_outer_ones() -> None:
    block = dsp.MelFilterbank(6, 256, sample_rate_hz=FS, f_min_hz=50.0, learnable=True)
    with torch.no_grad():
        block.steps.copy_(torch.tensor([9.0, -9, 4, 0, -3, 2, 1]))
    edges = block.edges_hz().detach()
    assert (edges.diff() > 0).all()
    torch.testing.assert_close(edges[[0, -1]], torch.tensor([50.0, 8000.0], dtype=torch.float64))
    assert (block.design()["weights"] >= 0).all()


def test_a_mel_band_between_two_bins_gets_a_warning() -> None:
    with pytest.warns(UserWarning, match="mel bands lie between two bins"):
        dsp.MelFilterbank(40, 64, sample_rate_hz=FS)


def test_bands_between_edges_are_sums_of_bins() -> None:
    x = power(2, 33, 4)
    block = dsp.BandEnergies.between([0.0, 1000.0, 3000.0, 8001.0], 64, sample_rate_hz=FS)
    expected = torch.stack([x[:, a:b].sum(1) for a, b in ((0, 4), (4, 12), (12, 33))], 1)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


def test_learned_bands_keep_zeros_and_signs() -> None:
    block = dsp.BandEnergies([[0.0, 1.0, -2.0]], learnable=True)
    with torch.no_grad():
        block.log_gain.copy_(torch.tensor([[5.0, -3.0, 1.0]]))
    weights = block.design()["weights"].detach()[0]
    assert weights[0] == 0 and weights[1] > 0 > weights[2]


@pytest.mark.parametrize(("n_out", "n_in"), [(13, 40), (1, 1), (8, 8)])
def test_dct_is_scipys(n_out: int, n_in: int) -> None:
    x = noise(2, n_in, 3)
    expected = scipy.fft.dct(x.numpy(), axis=-2, norm="ortho")[..., :n_out, :]
    np.testing.assert_allclose(dsp.DCT(n_out, n_in)(x), expected, atol=1e-12)


# ---- logarithms


@pytest.mark.parametrize("magnitude", [False, True])
def test_decibels_are_torchaudios(magnitude: bool) -> None:
    x = power(2, 9, 4).numpy()
    x[0, 3] = 0.0
    factor, amin, reference = (20.0 if magnitude else 10.0), 1e-5, 0.3
    expected = factor * np.log10(np.maximum(x, amin)) - factor * np.log10(reference)
    block = dsp.Log.decibels(magnitude=magnitude, amin=amin, reference=reference)
    np.testing.assert_allclose(block(torch.from_numpy(x)), expected, atol=1e-10)


def test_top_db_looks_at_each_frame_and_channel_alone() -> None:
    x = power(2, 9, 4)
    plain, limited = dsp.Log.decibels()(x), dsp.Log.decibels(top_db=3.0)(x)
    expected = torch.maximum(plain, plain.max(-2, keepdim=True).values - 3.0)
    torch.testing.assert_close(limited, expected, rtol=0, atol=0)
    assert (limited > plain).any()


@pytest.mark.parametrize("error", [1e-2, 1e-4])
def test_an_allowed_error_is_kept_and_printed(error: float) -> None:
    x = power(2, 9, 4)
    block = dsp.Log.decibels(max_error=error)
    apart = (block(x) - dsp.Log.decibels()(x)).abs().max()
    assert 0 < apart <= error * 10 / math.log(10)
    assert "error at most" in repr(block) and "error" not in repr(dsp.Log.decibels())


def test_an_offset_is_added_before_the_logarithm() -> None:
    x = torch.tensor([[[0.0], [2.0]]])
    y = dsp.Log(offset=0.5, amin=1e-30)(x)
    torch.testing.assert_close(y, torch.log(x + 0.5))


# ---- energy normalisation


def reference_pcen(x: np.ndarray, initial: str, per_band: bool) -> np.ndarray:
    """The formula of the paper, smoothed by `scipy.signal.lfilter` as librosa does."""
    shape = (1, 3, 1)
    gain = np.array([0.9, 0.8, 0.7]).reshape(shape) if per_band else 0.98
    t = 0.1 * FS / HOP
    s = (np.sqrt(1 + 4 * t**2) - 1) / (2 * t**2)
    start = x[..., :1] if initial == "first_frame" else np.zeros_like(x[..., :1])
    m, _ = scipy.signal.lfilter([s], [1, s - 1], x, zi=start * (1 - s))
    return (x / (1e-6 + m) ** gain + 2.0) ** 0.4 - 2.0**0.4


@pytest.mark.parametrize("initial", ["first_frame", "zero"])
@pytest.mark.parametrize("per_band", [False, True])
def test_pcen_is_the_published_formula(initial: str, per_band: bool) -> None:
    block = dsp.PCEN(
        gain=[0.9, 0.8, 0.7] if per_band else 0.98,
        power=0.4,
        time_constant_s=0.1,
        hop=HOP,
        sample_rate_hz=FS,
        initial=initial,
    )
    x = power(2, 3, 20)
    expected = reference_pcen(x.numpy(), initial, per_band)
    np.testing.assert_allclose(block(x).detach(), expected, rtol=2e-6)


def test_pcen_takes_a_batch_of_several_channels() -> None:
    block = dsp.PCEN(gain=[0.9, 0.8, 0.7], hop=HOP, sample_rate_hz=FS)
    x = power(2, 2, 3, 10)
    torch.testing.assert_close(block(x)[1, 1:], block(x[1, 1:]), rtol=0, atol=1e-12)


# ---- chains


def test_mfcc_is_its_definition_from_samples_on() -> None:
    x = noise(2, HOP * 40)
    window = torch.hann_window(LENGTH, dtype=torch.float64)
    spectra = torch_stft(x, window, LENGTH, HOP).abs().square().numpy()
    mel = mel_triangles(10, LENGTH, 100.0, FS / 2, None, "htk") @ spectra
    options = {"sample_rate_hz": FS, "f_min_hz": 100.0}
    np.testing.assert_allclose(dsp.MelSpectrogram(10, LENGTH, HOP, **options)(x), mel, atol=1e-10)
    logs = np.log(mel + 1e-6)
    np.testing.assert_allclose(dsp.LogMel(10, LENGTH, HOP, **options)(x), logs, atol=1e-10)
    cepstrum = scipy.fft.dct(10 * np.log10(np.maximum(mel, 1e-10)), axis=-2, norm="ortho")
    np.testing.assert_allclose(
        dsp.MFCC(4, 10, LENGTH, HOP, **options)(x), cepstrum[:, :4], atol=1e-10
    )


CHAINS: dict[str, Callable[[], torch.nn.Module]] = {
    "mel": lambda: dsp.MelSpectrogram(5, LENGTH, HOP, sample_rate_hz=FS, learnable=True),
    "decibels": lambda: dsp.LogMel(
        5, LENGTH, HOP, sample_rate_hz=FS, log=dsp.Log.decibels(top_db=20.0)
    ),
    "mfcc": lambda: dsp.MFCC(3, 5, LENGTH, HOP, sample_rate_hz=FS, power=1, norm="slaney"),
    "pcen": lambda: torch.nn.Sequential(
        dsp.MelSpectrogram(3, LENGTH, HOP, sample_rate_hz=FS),
        dsp.PCEN(gain=[0.9, 0.8, 0.7], time_constant_s=0.01, hop=HOP, sample_rate_hz=FS),
    ),
    "pcen from zero": lambda: torch.nn.Sequential(
        dsp.Spectrogram(8, HOP // 4),
        dsp.PCEN(time_constant_s=0.01, hop=HOP // 4, sample_rate_hz=FS, initial="zero"),
    ),
    "bands": lambda: torch.nn.Sequential(
        dsp.Spectrogram(LENGTH, HOP),
        dsp.BandEnergies.between([0, 2000, 5000], LENGTH, sample_rate_hz=FS, learnable=True),
    ),
}


@pytest.mark.parametrize("name", CHAINS)
@settings(max_examples=6, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_any_chunking_equals_the_whole(name: str, sizes: list[int]) -> None:
    module, x = CHAINS[name](), noise(2, HOP * sum(sizes)) + 0.5
    with torch.no_grad(), microddsp.streaming(module):
        streamed = torch.cat([module(chunk) for chunk in x.split([HOP * s for s in sizes], -1)], -1)
    torch.testing.assert_close(streamed, module(x).detach(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [n for n in CHAINS if n != "decibels"])
def test_gradients_to_signal_and_parameters_are_right(name: str) -> None:
    module = CHAINS[name]().double()
    parameters = dict(module.named_parameters())
    x = (noise(1, HOP * 3) + 0.5).requires_grad_()

    def run(x: Tensor, *values: Tensor) -> Tensor:
        given = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(module, given, (x,))

    values = [value.detach().clone().requires_grad_() for value in parameters.values()]
    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)


def test_learned_bands_survive_a_checkpoint() -> None:
    module, other = CHAINS["pcen"](), CHAINS["pcen"]()
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.1)
    other.load_state_dict(module.state_dict())
    x = noise(1, HOP * 4)
    assert torch.equal(other(x), module(x))


# ---- what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dsp.STFT(64, 65), "hop 65 is longer"),
        (lambda: dsp.STFT(0), "length must be at least 1"),
        (lambda: dsp.STFT(64, window="hannn"), "hannn"),
        (lambda: dsp.STFT(64, window=[1.0, 2.0]), "64 finite numbers"),
        (lambda: dsp.STFT(64, window=[float("nan")] * 64), "finite"),
        (lambda: dsp.Spectrogram(64, window_length=65), "window of 65 is longer"),
        (lambda: dsp.Spectrogram(64, power=3), "power is 1"),
        (lambda: dsp.PowerSpectrum(64, power=0), "power is 1"),
        (lambda: dsp.MelFilterbank(0, 64, sample_rate_hz=FS), "n_mels"),
        (lambda: dsp.MelFilterbank(4, 64, sample_rate_hz=FS, f_max_hz=9000.0), "f_max_hz <= 8000"),
        (lambda: dsp.MelFilterbank(4, 64, sample_rate_hz=FS, norm="area"), "norm"),
        (lambda: dsp.MelFilterbank(4, 64, sample_rate_hz=FS, mel_scale="bark"), "mel_scale"),
        (lambda: dsp.BandEnergies([1.0, 2.0]), r"\(bands, bins\)"),
        (lambda: dsp.BandEnergies([[float("inf")]]), "finite"),
        (lambda: dsp.BandEnergies.between([0, 10, 20], 64, sample_rate_hz=FS), "10 to 20 Hz"),
        (lambda: dsp.BandEnergies.between([5.0, 5.0], 64, sample_rate_hz=FS), "increasing"),
        (lambda: dsp.Log(amin=0.0), "amin"),
        (lambda: dsp.Log(amin=1e-40), "amin must be at least"),
        (lambda: dsp.Log(offset=float("nan")), "offset"),
        (lambda: dsp.Log.decibels(top_db=-1.0), "top_db"),
        (lambda: dsp.Log(max_error=0.0), "max_error"),
        (lambda: dsp.DCT(5, 4), "4 bands have no 5"),
        (lambda: dsp.PCEN(gain=0.0, hop=1, sample_rate_hz=FS), "gain"),
        (lambda: dsp.PCEN(gain=[1, 2], power=[1, 2, 3], hop=1, sample_rate_hz=FS), r"\[2, 3\]"),
        (lambda: dsp.PCEN(hop=1, sample_rate_hz=FS, initial="warm"), "initial"),
    ],
)
def test_bad_arguments_are_refused_at_once(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make()


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: dsp.PowerSpectrum(64)(noise(2, 64)), "frames, channels, 64"),
        (lambda: dsp.PCEN(hop=1, sample_rate_hz=FS)(noise(2, 64)), "channels, bands, frames"),
        (lambda: dsp.PCEN(gain=[1, 2], hop=1, sample_rate_hz=FS)(power(1, 3, 4)), "2 bands, got 3"),
        (lambda: dsp.Spectrogram(64, 32)(noise(2, 65)), "multiple of 32"),
    ],
)
def test_signals_of_another_shape_are_refused(run: Callable[[], object], message: str) -> None:
    with pytest.raises(SignalError, match=message):
        run()


@pytest.mark.parametrize("name", CHAINS)
def test_blocks_print_physical_units_and_no_tensors(name: str) -> None:
    text = repr(CHAINS[name]())
    assert "tensor" not in text and "Parameter" not in text
