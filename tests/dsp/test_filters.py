"""Filters against scipy.signal."""

import numpy as np
import pytest
import scipy.signal
import torch

from microddsp import dsp

FS = 8000.0
IMPULSE = torch.zeros(1, 4000, dtype=torch.float64)
IMPULSE[0, 0] = 1.0


def impulse_response(block: dsp.Block) -> np.ndarray:
    return block(IMPULSE)[0].detach().numpy()


def assert_same_system(block: dsp.Block, sos: np.ndarray, within: float = 1e-6) -> None:
    """Impulse and frequency response, relative to their largest value."""
    ours = impulse_response(block)
    theirs = scipy.signal.sosfilt(sos, IMPULSE[0].numpy())
    assert np.abs(ours - theirs).max() <= within * np.abs(theirs).max()
    ours, theirs = np.fft.rfft(ours), np.fft.rfft(theirs)
    assert np.abs(ours - theirs).max() <= within * np.abs(theirs).max()


def section(b: list[float], a: list[float]) -> np.ndarray:
    return np.array([[*b, *a]])


@pytest.mark.parametrize("form", ["direct", "svf"])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 7, 10])
@pytest.mark.parametrize("kind", ["lowpass", "highpass"])
def test_one_edge_equals_scipys_butterworth(kind: str, order: int, form: str) -> None:
    make = {"lowpass": dsp.Lowpass, "highpass": dsp.Highpass}[kind]
    block = make(700.0, order, sample_rate_hz=FS, form=form)
    stored = float(block.cutoff_hz.detach())
    assert stored == pytest.approx(700.0, rel=1e-6)  # parameters are float32
    sos = scipy.signal.butter(order, stored, kind, output="sos", fs=FS)
    assert_same_system(block, sos, within=1e-8)


@pytest.mark.parametrize("form", ["direct", "svf"])
@pytest.mark.parametrize("edges", [(90.0, 700.0), (300.0, 400.0), (60.0, 3900.0)])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("kind", ["bandpass", "bandstop"])
def test_two_edges_equal_scipys_butterworth(
    kind: str, order: int, edges: tuple[float, float], form: str
) -> None:
    make = {"bandpass": dsp.Bandpass, "bandstop": dsp.Bandstop}[kind]
    block = make(*edges, order, sample_rate_hz=FS, form=form)
    stored = [float(block.low_hz.detach()), float(block.high_hz.detach())]
    assert stored == pytest.approx(edges, rel=1e-6)  # parameters are float32
    sos = scipy.signal.butter(order, stored, kind, output="sos", fs=FS)
    assert_same_system(block, sos, within=1e-8)


def test_a_band_whose_real_pole_is_double_still_has_a_gradient() -> None:
    low = np.tan(np.pi * 100.0 / FS)
    high = FS / np.pi * np.arctan(low * (3 + 2 * 2**0.5))
    block = dsp.Bandpass(100.0, high, 1, sample_rate_hz=FS).double()
    with torch.no_grad():  # exactly, not as rounded to float32
        share = torch.tensor((high - 100.0) / (FS / 2 - 100.0), dtype=torch.float64)
        block.low.raw.copy_(torch.logit(torch.tensor(100.0 / (FS / 2), dtype=torch.float64)))
        block.high.raw.copy_(torch.logit(share))
    block(IMPULSE)[0, :50].square().sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in block.parameters())


@pytest.mark.parametrize("form", ["direct", "svf"])
def test_biquads_equal_the_analog_sections_they_come_from(form: str) -> None:
    f0, q = 500.0, 2.0
    w = 2 * FS * np.tan(np.pi * f0 / FS)
    damping = [1.0, w / q, w * w]
    numerators = {
        "lowpass": [0.0, 0.0, w * w],
        "highpass": [1.0, 0.0, 0.0],
        "bandpass": [0.0, w / q, 0.0],
        "notch": [1.0, 0.0, w * w],
    }
    for response, numerator in numerators.items():
        b, a = scipy.signal.bilinear(numerator, damping, FS)
        block = dsp.Biquad(response, f0, q, FS, form=form)
        assert_same_system(block, section(list(b), list(a)))


def cookbook(response: str, f0: float, q: float, gain_db: float) -> np.ndarray:
    """The formulas as R. Bristow-Johnson printed them."""
    a, w = 10 ** (gain_db / 40), 2 * np.pi * f0 / FS
    cos, alpha = np.cos(w), np.sin(w) / (2 * q)
    root = 2 * np.sqrt(a) * alpha
    up, down = a + 1, a - 1
    if response == "allpass":
        return section([1 - alpha, -2 * cos, 1 + alpha], [1 + alpha, -2 * cos, 1 - alpha])
    if response == "peaking":
        return section(
            [1 + alpha * a, -2 * cos, 1 - alpha * a], [1 + alpha / a, -2 * cos, 1 - alpha / a]
        )
    sign = 1 if response == "lowshelf" else -1
    cos = sign * cos
    b = [up - down * cos + root, sign * 2 * (down - up * cos), up - down * cos - root]
    return section(
        [a * value for value in b],
        [up + down * cos + root, sign * -2 * (down + up * cos), up + down * cos - root],
    )


@pytest.mark.parametrize("form", ["direct", "svf"])
@pytest.mark.parametrize(("f0", "q", "gain_db"), [(500.0, 2.0, 6.0), (80.0, 0.6, -15.0)])
@pytest.mark.parametrize("response", ["allpass", "peaking", "lowshelf", "highshelf"])
def test_biquads_equal_the_cookbook(
    response: str, f0: float, q: float, gain_db: float, form: str
) -> None:
    gain = {} if response == "allpass" else {"gain_db": gain_db}
    block = dsp.Biquad(response, f0, q, FS, form=form, **gain)
    sos = cookbook(response, f0, q, gain_db)
    assert_same_system(block, sos / sos[:, 3:4])


def test_a_peak_of_no_gain_changes_nothing() -> None:
    for make in (dsp.Biquad.peaking, dsp.SVF.lowshelf, dsp.Biquad.highshelf):
        block = make(500.0, gain_db=0.0, sample_rate_hz=FS)
        np.testing.assert_allclose(impulse_response(block), IMPULSE[0].numpy(), atol=1e-12)


def test_edges_of_a_biquad_are_its_half_power_points() -> None:
    for make in (dsp.Biquad.bandpass, dsp.Biquad.notch):
        block = make(low_hz=400.0, high_hz=900.0, sample_rate_hz=FS)
        response = np.abs(np.fft.fft(impulse_response(block), 8000))
        # exact only far below half the sample rate: the bilinear transform warps the band
        assert response[[400, 900]] == pytest.approx([0.5**0.5] * 2, abs=0.03)


def test_a_notch_has_a_true_zero() -> None:
    n = torch.arange(8000, dtype=torch.float64)[None]
    hum = torch.sin(2 * torch.pi * 50.0 * n / FS)
    block = dsp.Biquad.notch(50.0, 1.0, sample_rate_hz=FS)
    assert float(block(hum)[0, -800:].detach().abs().max()) < 1e-4


def test_sections_equal_scipys() -> None:
    for sos in (
        scipy.signal.ellip(6, 1, 60, 0.2, output="sos"),
        scipy.signal.cheby2(5, 40, [0.1, 0.3], "bandpass", output="sos"),
        scipy.signal.butter(2, 1.0, fs=16000.0, output="sos"),
    ):
        assert_same_system(dsp.SOS(sos, sample_rate_hz=FS), sos)
        assert_same_system(dsp.SOS(sos * 2.0, sample_rate_hz=FS), sos)


def test_one_pole_is_exponential_smoothing() -> None:
    p = np.exp(-2 * np.pi * 40.0 / FS)
    assert_same_system(
        dsp.OnePole(40.0, sample_rate_hz=FS), section([1 - p, 0.0, 0.0], [1.0, -p, 0.0])
    )


def test_a_time_constant_is_where_a_step_reaches_63_percent() -> None:
    block = dsp.OnePole(time_constant_s=0.01, sample_rate_hz=FS)
    step = block(torch.ones(1, 200, dtype=torch.float64))
    assert float(step[0, 79].detach()) == pytest.approx(1 - np.exp(-1.0), abs=1e-5)


def test_the_dc_blocker_is_a_first_order_butterworth_highpass() -> None:
    sos = scipy.signal.butter(1, 20.0, "highpass", fs=FS, output="sos")
    assert_same_system(dsp.DCBlocker(20.0, sample_rate_hz=FS), sos)


def test_fir_filters_equal_lfilter() -> None:
    x = torch.randn(2, 3, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low = dsp.FIR.lowpass(500.0, 31, sample_rate_hz=FS)
    band = dsp.FIR.bandpass(300.0, 900.0, 32, sample_rate_hz=FS)
    taps = scipy.signal.firwin(31, 500.0, fs=FS)
    np.testing.assert_allclose(low(x).detach(), scipy.signal.lfilter(taps, 1, x), rtol=0, atol=1e-7)
    taps = scipy.signal.firwin(32, [300.0, 900.0], pass_zero=False, fs=FS)
    np.testing.assert_allclose(
        band(x).detach(), scipy.signal.lfilter(taps, 1, x), rtol=0, atol=1e-7
    )


def test_causal_convolution_is_torchs_after_left_padding() -> None:
    block = dsp.CausalConv1d(4, 6, 3, stride=2, dilation=2, groups=2)
    x = torch.randn(2, 4, 20, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x, (4, 0))
    expected = torch.nn.functional.conv1d(
        padded, block.weight, block.bias, stride=2, dilation=2, groups=2
    )
    torch.testing.assert_close(block(x), expected)


def test_the_envelope_rises_and_falls_with_its_times() -> None:
    block = dsp.Envelope(0.01, 0.05, sample_rate_hz=FS)
    x = torch.zeros(1, 8000, dtype=torch.float64)
    x[0, :4000] = -1.0
    y = block(x)[0].detach()
    assert float(y[79]) == pytest.approx(1 - np.exp(-1.0), abs=1e-6)
    assert float(y[4399] / y[3999]) == pytest.approx(np.exp(-1.0), abs=1e-6)


@pytest.mark.parametrize(
    ("rectify", "expected"), [("abs", [3.0, 3.0]), ("square", [9.0, 9.0]), ("none", [-3.0, 3.0])]
)
def test_the_envelope_rectifies_as_told(rectify: str, expected: list[float]) -> None:
    block = dsp.Envelope(1e-9, 1e-9, sample_rate_hz=FS, rectify=rectify)
    y = block(torch.tensor([[-3.0, 3.0]], dtype=torch.float64))
    assert y[0].tolist() == pytest.approx(expected)


def test_frames_hold_the_samples_that_end_at_each_hop() -> None:
    x = torch.arange(1.0, 9.0)[None]
    y = dsp.Frames(4, 2)(x)
    assert y[:, 0].tolist() == [
        [0.0, 0.0, 1.0, 2.0],
        [1.0, 2.0, 3.0, 4.0],
        [3.0, 4.0, 5.0, 6.0],
        [5.0, 6.0, 7.0, 8.0],
    ]


def test_decimation_keeps_the_first_of_each_group() -> None:
    assert dsp.Decimate(3)(torch.arange(6.0)[None]).tolist() == [[0.0, 3.0]]


def test_one_value_per_channel_equals_one_filter_per_channel() -> None:
    x = torch.randn(2, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    both = dsp.Bandpass([50.0, 80.0], [300.0, 900.0], 2, sample_rate_hz=FS)(x)
    for row, edges in enumerate([(50.0, 300.0), (80.0, 900.0)]):
        alone = dsp.Bandpass(*edges, 2, sample_rate_hz=FS)(x[row : row + 1])
        torch.testing.assert_close(both[row : row + 1], alone, rtol=0, atol=1e-12)


def test_the_gain_is_in_the_first_section_and_numerators_are_plain() -> None:
    plain = {
        dsp.Lowpass(500.0, 6, sample_rate_hz=FS): (1.0, 2.0, 1.0),
        dsp.Highpass(500.0, 6, sample_rate_hz=FS): (1.0, -2.0, 1.0),
        dsp.Bandpass(90.0, 700.0, 4, sample_rate_hz=FS): (1.0, 0.0, -1.0),
    }
    for block, numerator in plain.items():
        for dtype in (torch.float64, torch.float32):
            b = block.coefficients().detach().to(dtype)[:, :3]
            assert all(tuple(row.tolist()) == numerator for row in b[1:])
            assert (b[0] / b[0, 0]).tolist() == list(numerator)


LOW = [5.0, 1.0]


@pytest.mark.parametrize("hz", LOW)
@pytest.mark.parametrize(
    "make",
    [
        lambda hz: dsp.Lowpass(hz, 2, sample_rate_hz=16000.0),
        lambda hz: dsp.Highpass(hz, 4, sample_rate_hz=16000.0),
        lambda hz: dsp.Biquad.lowpass(hz, sample_rate_hz=16000.0),
        lambda hz: dsp.Lowpass(hz, 3, sample_rate_hz=16000.0),
        lambda hz: dsp.Bandpass(hz, 4 * hz, 2, sample_rate_hz=16000.0),
        lambda hz: dsp.Bandpass(hz, 2000.0, 2, sample_rate_hz=16000.0),
        lambda hz: dsp.Bandstop(hz, 4 * hz, 2, sample_rate_hz=16000.0),
        lambda hz: dsp.SOS(
            scipy.signal.butter(2, hz, fs=16000.0, output="sos"), sample_rate_hz=16000.0
        ),
    ],
    ids=["lowpass", "highpass", "biquad", "odd", "band", "wide band", "bandstop", "sections"],
)
def test_low_cut_offs_keep_their_precision_in_float32(make, hz: float) -> None:
    x = torch.randn(1, 64000, generator=torch.Generator().manual_seed(0))
    block = make(hz)
    with torch.no_grad():
        exact, single = block(x.double()), block(x).double()
    assert float((exact - single).abs().max() / exact.abs().max()) < 1e-4


@pytest.mark.parametrize(
    "block",
    [
        dsp.Lowpass(50.0, 2, sample_rate_hz=FS),
        dsp.Lowpass(50.0, 8, sample_rate_hz=FS),
        dsp.Lowpass(5.0, 2, sample_rate_hz=FS),
        dsp.Highpass(50.0, 3, sample_rate_hz=FS),
        dsp.Bandpass(90.0, 700.0, 4, sample_rate_hz=FS),
        dsp.Bandpass(90.0, 100.0, 4, sample_rate_hz=FS),
        dsp.Biquad.lowpass(50.0, 0.3, sample_rate_hz=FS),
        dsp.SVF.lowpass(50.0, 5.0, sample_rate_hz=FS),
        dsp.OnePole(50.0, sample_rate_hz=FS),
    ],
    ids=lambda block: repr(block),
)
def test_an_offset_has_faded_after_settle_samples(block: dsp.Block) -> None:
    settle = block.settle_samples
    with torch.no_grad():
        y = block(torch.ones(1, 10 * settle, dtype=torch.float64))[0]
    transient = (y - y[-1]).abs()
    # the slowest pole alone is counted: several near it take a little longer
    assert float(transient[settle:].max()) < 0.025 * float(transient.max())
