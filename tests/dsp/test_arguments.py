"""What blocks refuse, and what they print."""

import pytest
import torch

from microddsp import dsp
from microddsp.errors import MicroddspError, ParameterError, SignalError

NAN = float("nan")
FS = 8000.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dsp.Gain(NAN), "gain"),
        (lambda: dsp.Lowpass(4000.0, 2, sample_rate_hz=FS), "below half the sample rate"),
        (lambda: dsp.Lowpass(0.0, 2, sample_rate_hz=FS), "cutoff_hz"),
        (lambda: dsp.Lowpass(NAN, 2, sample_rate_hz=FS), "cutoff_hz"),
        (lambda: dsp.Lowpass([100.0, 5000.0], 2, sample_rate_hz=FS), "below half"),
        (lambda: dsp.Lowpass(100.0, 0, sample_rate_hz=FS), "order"),
        (lambda: dsp.Lowpass(100.0, 2.5, sample_rate_hz=FS), "order"),
        (lambda: dsp.Lowpass(100.0, NAN, sample_rate_hz=FS), "order"),
        (lambda: dsp.Lowpass(100.0, float("inf"), sample_rate_hz=FS), "order"),
        (lambda: dsp.Lowpass(100.0, "two", sample_rate_hz=FS), "order"),
        (lambda: dsp.Lowpass(100.0, 25, sample_rate_hz=FS), "order"),
        (lambda: dsp.Lowpass(100.0, sample_rate_hz=NAN), "sample_rate_hz"),
        (lambda: dsp.Lowpass(100.0, sample_rate_hz=-1.0), "sample_rate_hz"),
        (lambda: dsp.Lowpass(100.0, sample_rate_hz=FS, form="fast"), "form"),
        (lambda: dsp.Lowpass(100.0, sample_rate_hz=FS, initial="last"), "initial"),
        (lambda: dsp.SVF("lowpass", 100.0, 1.0, FS, form="direct"), "no direct form"),
        (lambda: dsp.SVF("lowpass", 100.0, 1.0, FS, form="fast"), "form"),
        (lambda: dsp.Bandpass(700.0, 90.0, sample_rate_hz=FS), "high_hz"),
        (lambda: dsp.Bandpass(90.0, 90.0, sample_rate_hz=FS), "high_hz"),
        (lambda: dsp.Bandpass(90.0, 4000.0, sample_rate_hz=FS), "high_hz"),
        (lambda: dsp.Bandstop(-1.0, 90.0, sample_rate_hz=FS), "low_hz"),
        (lambda: dsp.Biquad("lowpas", 100.0, 1.0, FS), "did you mean 'lowpass'"),
        (lambda: dsp.Biquad.lowpass(100.0, 0.0, sample_rate_hz=FS), "q must be positive"),
        (lambda: dsp.Biquad.bandpass(sample_rate_hz=FS), "f0_hz and q"),
        (lambda: dsp.Biquad.bandpass(100.0, low_hz=5.0, sample_rate_hz=FS), "f0_hz and q"),
        (lambda: dsp.Biquad.notch(low_hz=9.0, high_hz=5.0, sample_rate_hz=FS), "edges"),
        (lambda: dsp.Biquad("peaking", 100.0, 1.0, FS), "needs gain_db"),
        (lambda: dsp.Biquad("notch", 100.0, 1.0, FS, gain_db=3.0), "takes no gain_db"),
        (lambda: dsp.Biquad.lowshelf(100.0, gain_db=NAN, sample_rate_hz=FS), "gain_db"),
        (lambda: dsp.Biquad.lowshelf(100.0, gain_db=500.0, sample_rate_hz=FS), "120 dB"),
        (lambda: dsp.SOS([[1.0, 0, 0, 1, -2.0, 1.0]], sample_rate_hz=FS), "unit circle"),
        (lambda: dsp.SOS([[1.0, 0, 0, 0, 0, 0]], sample_rate_hz=FS), "a0"),
        (lambda: dsp.SOS([[NAN, 0, 0, 1, 0, 0]], sample_rate_hz=FS), "finite"),
        (lambda: dsp.SOS([[1.0, 0, 0, 1, 0]], sample_rate_hz=FS), "sections, 6"),
        (lambda: dsp.OnePole(sample_rate_hz=FS), "time_constant_s"),
        (lambda: dsp.OnePole(5.0, time_constant_s=1.0, sample_rate_hz=FS), "time_constant_s"),
        (lambda: dsp.OnePole(time_constant_s=-1.0, sample_rate_hz=FS), "time_constant_s"),
        (lambda: dsp.DCBlocker(5000.0, sample_rate_hz=FS), "cutoff_hz"),
        (lambda: dsp.Offset(NAN), "offset"),
        (lambda: dsp.Mix([1.0, 2.0]), "outputs, inputs"),
        (lambda: dsp.Mix([[NAN]]), "outputs, inputs"),
        (lambda: dsp.Delay(), "samples or delay_s"),
        (lambda: dsp.Delay(3, delay_s=1.0), "samples or delay_s"),
        (lambda: dsp.Delay(0), "samples"),
        (lambda: dsp.Delay(delay_s=1.0), "sample_rate_hz"),
        (lambda: dsp.Delay(delay_s=1e-9, sample_rate_hz=FS), "samples"),
        (lambda: dsp.LearnableDelay(0.2, max_s=0.1, sample_rate_hz=FS), "below 0.1 s"),
        (lambda: dsp.LearnableDelay(0.0, max_s=0.1, sample_rate_hz=FS), "above 0 s"),
        (
            lambda: dsp.LearnableDelay(
                1e-4, max_s=0.1, sample_rate_hz=FS, interpolation="lagrange"
            ),
            "above 0.000125 s",
        ),
        (
            lambda: dsp.LearnableDelay(0.1, max_s=0.2, sample_rate_hz=FS, interpolation="linea"),
            "did you mean 'linear'",
        ),
        (lambda: dsp.RMS(sample_rate_hz=FS), "time_constant_s or window_s"),
        (lambda: dsp.RMS(0.1, sample_rate_hz=FS, floor=0.0), "floor"),
        (lambda: dsp.RMS(-0.1, sample_rate_hz=FS), "time_constant_s"),
        (lambda: dsp.RMS(window_s=0.0, sample_rate_hz=FS), "window_s"),
        (lambda: dsp.Resample(2, 2), "same rate"),
        (lambda: dsp.Resample(0, 2), "up"),
        (lambda: dsp.Resample(1, 2, half_width=0), "half_width"),
        (lambda: dsp.Select([dsp.Gain(1.0)]), "two or more"),
        (lambda: dsp.Select([dsp.Gain(1.0), 2.0]), "two or more"),
        (lambda: dsp.Select([dsp.Gain(1.0)] * 2, temperature=0.0), "temperature"),
        (lambda: dsp.IIR([1.0], [0.0, 1.0], sample_rate_hz=FS), r"a\[0\]"),
        (lambda: dsp.IIR([], [1.0], sample_rate_hz=FS), "b is a list"),
        (lambda: dsp.IIR([0.0], [1.0], sample_rate_hz=FS), "some of b"),
        (lambda: dsp.IIR([1.0], [1.0, -2.0], sample_rate_hz=FS), "unit circle"),
        (
            lambda: dsp.decimate_then_filter(dsp.Gain, keep_hz=500.0, sample_rate_hz=FS),
            "too close",
        ),
        (lambda: dsp.FIR([]), "taps"),
        (lambda: dsp.FIR([1.0, NAN]), "taps"),
        (lambda: dsp.FIR.lowpass(5000.0, 31, sample_rate_hz=FS), "FIR"),
        (lambda: dsp.FIR.lowpass(500.0, 0, sample_rate_hz=FS), "taps"),
        (lambda: dsp.CausalConv1d(3, 4, 3, groups=2), "groups"),
        (lambda: dsp.CausalConv1d(3, 4, 0), "kernel_size"),
        (lambda: dsp.CausalConv1d(3, 4, 3, stride=0), "stride"),
        (lambda: dsp.Envelope(-0.1, 0.1, sample_rate_hz=FS), "attack_s"),
        (lambda: dsp.Envelope(0.1, 0.0, sample_rate_hz=FS), "release_s"),
        (lambda: dsp.Envelope(0.1, NAN, sample_rate_hz=FS), "release_s"),
        (lambda: dsp.Envelope(0.1, 0.1, sample_rate_hz=FS, rectify="sqare"), "'square'"),
        (lambda: dsp.Decimate(0), "factor"),
        (lambda: dsp.Decimate(1.5), "factor"),
        (lambda: dsp.Frames(4, 8), "hop"),
        (lambda: dsp.Frames(0), "length"),
    ],
)
def test_senseless_values_are_refused_by_name(make, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(8), "channels"),
        (torch.zeros(1, 8, dtype=torch.int16), "int16"),
        (torch.zeros(1, 8, dtype=torch.float16), "float16"),
    ],
)
def test_what_is_no_signal_is_refused(x: torch.Tensor, message: str) -> None:
    with pytest.raises(SignalError, match=message):
        dsp.Lowpass(100.0, sample_rate_hz=FS)(x)


def test_parameters_for_other_channels_than_the_signals_are_refused() -> None:
    with pytest.raises(MicroddspError):
        dsp.Lowpass([100.0, 200.0], sample_rate_hz=FS)(torch.zeros(3, 8))
    with pytest.raises(MicroddspError):
        dsp.Gain([1.0, 2.0])(torch.zeros(1, 8))


@pytest.mark.parametrize("block", [dsp.Decimate(4), dsp.Frames(8, 4)])
def test_a_chunk_that_splits_a_hop_is_refused(block: dsp.Block) -> None:
    with pytest.raises(MicroddspError, match="4"):
        block(torch.zeros(1, 6))


def test_learned_values_print_in_units() -> None:
    lines = {
        dsp.Bandpass(90.0, 700.0, 4, sample_rate_hz=FS): "low_hz=90, high_hz=700, order=4",
        dsp.Lowpass([50.0, 60.5], sample_rate_hz=FS): "cutoff_hz=[50, 60.5]",
        dsp.Biquad.notch(50.0, 5.0, sample_rate_hz=FS): "notch, f0_hz=50, q=5",
        dsp.Biquad.peaking(50.0, 5.0, gain_db=-6.0, sample_rate_hz=FS): "q=5, gain_db=-6",
        dsp.Envelope(0.002, 0.05, sample_rate_hz=FS): "attack_s=0.002, release_s=0.05",
        dsp.OnePole(5.0, sample_rate_hz=FS): "cutoff_hz=5",
        dsp.Gain(2.0): "gain=2",
        dsp.Frames(8, 4): "length=8, hop=4",
    }
    for block, text in lines.items():
        assert text in repr(block)
        assert text in repr(torch.nn.Sequential(block))


def test_learned_values_are_attributes_in_units() -> None:
    band = dsp.Bandpass(90.0, 700.0, 4, sample_rate_hz=FS)
    assert float(band.low_hz.detach()) == pytest.approx(90.0, rel=1e-5)
    assert float(band.high_hz.detach()) == pytest.approx(700.0, rel=1e-5)


@pytest.mark.parametrize("move", [-50.0, -3.0, 3.0, 50.0])
def test_no_step_of_an_optimiser_makes_a_filter_unstable(move: float) -> None:
    for block in (
        dsp.Bandpass(90.0, 700.0, 3, sample_rate_hz=FS),
        dsp.Lowpass(100.0, 3, sample_rate_hz=FS),
        dsp.Biquad.notch(100.0, 1.0, sample_rate_hz=FS),
        dsp.Biquad.peaking(100.0, 1.0, gain_db=9.0, sample_rate_hz=FS),
        dsp.Biquad.highshelf(100.0, gain_db=-9.0, sample_rate_hz=FS),
        dsp.SVF.lowshelf(100.0, gain_db=9.0, sample_rate_hz=FS),
        dsp.SOS([[1.0, 0, 0, 1, -1.6, 0.7]], sample_rate_hz=FS),
        dsp.DCBlocker(5.0, sample_rate_hz=FS),
        dsp.Envelope(0.01, 0.1, sample_rate_hz=FS),
    ):
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.add_(move)
            y = block(torch.ones(1, 2000, dtype=torch.float64))
        assert bool(torch.isfinite(y).all())
        assert float(y.abs().max()) < 1e6
