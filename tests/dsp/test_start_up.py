"""`initial="first_sample"`: an offset makes no step, in windows and streams alike."""

import pytest
import scipy.signal
import torch

import microddsp
from microddsp import dsp

FS = 1000.0
SOS = scipy.signal.ellip(4, 1, 40, 0.2, output="sos")

FILTERS = {
    "lowpass": lambda: dsp.Lowpass(50.0, 4, sample_rate_hz=FS, initial="first_sample"),
    "odd lowpass": lambda: dsp.Lowpass(50.0, 3, sample_rate_hz=FS, initial="first_sample"),
    "low lowpass": lambda: dsp.Lowpass(1.0, 2, sample_rate_hz=FS, initial="first_sample"),
    "highpass": lambda: dsp.Highpass(50.0, 4, sample_rate_hz=FS, initial="first_sample"),
    "bandpass": lambda: dsp.Bandpass(50.0, 90.0, 3, sample_rate_hz=FS, initial="first_sample"),
    "bandstop": lambda: dsp.Bandstop(50.0, 90.0, 3, sample_rate_hz=FS, initial="first_sample"),
    "notch": lambda: dsp.Biquad.notch(50.0, 2.0, sample_rate_hz=FS, initial="first_sample"),
    "peak": lambda: dsp.Biquad.peaking(
        50.0, gain_db=6.0, sample_rate_hz=FS, initial="first_sample"
    ),
    "low shelf": lambda: dsp.SVF.lowshelf(
        50.0, gain_db=-6.0, sample_rate_hz=FS, initial="first_sample"
    ),
    "svf": lambda: dsp.SVF.highpass(50.0, sample_rate_hz=FS, initial="first_sample"),
    "sections": lambda: dsp.SOS(SOS, sample_rate_hz=FS, initial="first_sample"),
    "one pole": lambda: dsp.OnePole(5.0, sample_rate_hz=FS, initial="first_sample"),
    "dc blocker": lambda: dsp.DCBlocker(5.0, sample_rate_hz=FS, initial="first_sample"),
}
every_filter = pytest.mark.parametrize("name", FILTERS)


@every_filter
def test_a_constant_makes_no_transient(name: str) -> None:
    y = FILTERS[name]()(torch.full((2, 50), 3.0, dtype=torch.float64)).detach()
    torch.testing.assert_close(y, y[..., :1].expand_as(y), rtol=0, atol=1e-9)


@every_filter
def test_each_channel_and_recording_starts_from_its_own_first_sample(name: str) -> None:
    offsets = torch.tensor([[1.0], [-5.0], [1000.0]], dtype=torch.float64)
    y = FILTERS[name]()(offsets.repeat(2, 1, 1).expand(2, 3, 20)).detach()
    torch.testing.assert_close(y, y[..., :1].expand_as(y), rtol=0, atol=1e-7)


@every_filter
def test_after_a_reset_the_next_sample_is_the_first(name: str) -> None:
    block = FILTERS[name]()
    with torch.no_grad(), microddsp.streaming(block):
        block(torch.full((1, 10), 3.0, dtype=torch.float64))
        microddsp.reset(block)
        y = block(torch.full((1, 10), -7.0, dtype=torch.float64))
    torch.testing.assert_close(y, y[..., :1].expand_as(y), rtol=0, atol=1e-9)


def test_the_start_is_scipys_steady_state() -> None:
    x = torch.randn(1, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 4
    zi = scipy.signal.sosfilt_zi(SOS) * float(x[0, 0])
    expected, _ = scipy.signal.sosfilt(SOS, x[0].numpy(), zi=zi)
    y = dsp.SOS(SOS, sample_rate_hz=FS, initial="first_sample")(x)
    torch.testing.assert_close(y[0].detach(), torch.tensor(expected), rtol=0, atol=1e-6)


def test_a_chain_of_filters_is_settled_as_a_whole() -> None:
    chain = torch.nn.Sequential(
        dsp.Lowpass(50.0, 2, sample_rate_hz=FS, initial="first_sample"),
        dsp.DCBlocker(2.0, sample_rate_hz=FS, initial="first_sample"),
        dsp.Envelope(0.001, 0.01, sample_rate_hz=FS),
    )
    y = chain(torch.full((1, 100), 9.81, dtype=torch.float64))
    assert float(y.detach().abs().max()) < 1e-9


def test_windows_and_stream_count_the_same_on_an_offset() -> None:
    chain = torch.nn.Sequential(
        dsp.Bandpass(20.0, 200.0, 2, sample_rate_hz=FS, initial="first_sample"),
        dsp.Envelope(0.002, 0.02, sample_rate_hz=FS),
        dsp.EventCounter(threshold=0.2, sample_rate_hz=FS),
    )
    n = torch.arange(2000)
    bursts = torch.sin(2 * torch.pi * 80.0 * n / FS) * ((n % 400) > 300)
    x = (bursts + 1.65)[None]
    with torch.no_grad():
        offline = int(chain(x))
        with microddsp.streaming(chain):
            streamed = [int(chain(chunk)) for chunk in x.split(50, -1)][-1]
        lead_in_each = sum(int(chain(window)) for window in x.split(400, -1))
    assert offline == streamed == lead_in_each == 5
