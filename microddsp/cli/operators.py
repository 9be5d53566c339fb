"""The table behind `microddsp ops`. Plain data: importing the blocks themselves takes seconds.

A test compares it with the classes and with the operators that are registered.
"""

from __future__ import annotations

from dataclasses import dataclass

ALL = "all"


@dataclass(frozen=True, slots=True)
class OperatorLine:
    """kind: "block" (dsp.X), "operator" (microddsp::x, what blocks are made of), "torch" or
    "torchaudio" (compiled where a module calls it; torch differentiates it).

    gradients: "all" is to input, parameters and initial state.
    """

    name: str
    kind: str
    gradients: str
    compiles: bool
    description: str


OPERATORS = (
    OperatorLine("Gain", "block", ALL, True, "multiply, one number or one per channel"),
    OperatorLine("Offset", "block", ALL, True, "add, one number or one per channel"),
    OperatorLine("Mix", "block", ALL, True, "channels from weighted sums of channels"),
    OperatorLine("Delay", "block", "input, state", True, "some whole samples later"),
    OperatorLine("LearnableDelay", "block", ALL, True, "a delay that is learned, interpolated"),
    OperatorLine("Select", "block", ALL, True, "one of several branches, soft in training"),
    OperatorLine(
        "Biquad",
        "block",
        ALL,
        True,
        "one section, from f0, Q and gain: low- to high-pass, peaks, shelves",
    ),
    OperatorLine("SVF", "block", ALL, True, "Biquad, exact at low cut-offs"),
    OperatorLine("SOS", "block", ALL, True, "cascade of second-order sections, learned directly"),
    OperatorLine("IIR", "block", ALL, True, "any b and a of scipy's lfilter, kept stable"),
    OperatorLine("Lowpass", "block", ALL, True, "Butterworth of order n"),
    OperatorLine("Highpass", "block", ALL, True, "Butterworth of order n"),
    OperatorLine("Bandpass", "block", ALL, True, "Butterworth between two edges"),
    OperatorLine("Bandstop", "block", ALL, True, "Butterworth outside two edges"),
    OperatorLine("OnePole", "block", ALL, True, "exponential smoothing"),
    OperatorLine("DCBlocker", "block", ALL, True, "removes an offset"),
    OperatorLine("FIR", "block", ALL, True, "finite impulse response"),
    OperatorLine("SincFilterbank", "block", ALL, True, "windowed-sinc bands, learnable edges"),
    OperatorLine("Gammatone", "block", ALL, True, "filters of the ear, order 4"),
    OperatorLine("Filterbank", "block", ALL, True, "heights of bands, without a transform"),
    OperatorLine("CausalConv1d", "block", ALL, True, "torch's Conv1d that keeps its past"),
    OperatorLine("SweptDelay", "block", ALL, True, "a delay driven by another signal"),
    OperatorLine("SweptFilter", "block", ALL, True, "a filter driven by another signal"),
    OperatorLine("Envelope", "block", ALL, True, "height of a signal, attack and release"),
    OperatorLine("Oscillator", "block", ALL, True, "a sine, its frequency moved by the input"),
    OperatorLine("Noise", "block", "input, level", True, "adds the same noise on every device"),
    OperatorLine("Table", "block", ALL, True, "a learnable curve"),
    OperatorLine("Waveform", "block", "samples, speed", True, "plays a recording on a trigger"),
    OperatorLine("OnsetStrength", "block", ALL, True, "how much the level of bands rises"),
    OperatorLine("PeakPicker", "block", "input, threshold", True, "events at peaks; surrogate"),
    OperatorLine("OnsetDetector", "block", "input, threshold", True, "events where levels rise"),
    OperatorLine("RMS", "block", ALL, True, "running root mean square"),
    OperatorLine("GRU", "block", ALL, True, "gated recurrent units along a stream"),
    OperatorLine("Recurrence", "block", ALL, True, "any feedback, written as a Python step"),
    OperatorLine("Resample", "block", ALL, True, "another rate, up/down, with its low-pass"),
    OperatorLine("Decimate", "block", "input", True, "every n-th sample"),
    OperatorLine("Frames", "block", "input, state", True, "overlapping frames of a stream"),
    OperatorLine("RFFT", "block", "input", True, "Fourier transform of frames"),
    OperatorLine("STFT", "block", "input, state", True, "Fourier transform of overlapping frames"),
    OperatorLine("PowerSpectrum", "block", "input", True, "power or magnitude of frames' bins"),
    OperatorLine("Spectrogram", "block", "input, state", True, "power of overlapping frames"),
    OperatorLine("BandEnergies", "block", ALL, True, "weighted sums over bins"),
    OperatorLine("MelFilterbank", "block", ALL, True, "mel triangles, fixed or learnable"),
    OperatorLine("MelSpectrogram", "block", ALL, True, "Spectrogram and MelFilterbank"),
    OperatorLine("Log", "block", "input", True, "natural logarithm or decibels"),
    OperatorLine("LogMel", "block", ALL, True, "logarithm of MelSpectrogram"),
    OperatorLine("PCEN", "block", ALL, True, "each band against its own past"),
    OperatorLine("DCT", "block", "input", True, "cosine transform over bands"),
    OperatorLine("MFCC", "block", ALL, True, "cepstral coefficients"),
    OperatorLine("EventCounter", "block", "by surrogate", True, "running count of events"),
    OperatorLine("sos", "operator", ALL, True, "cascade of second-order sections"),
    OperatorLine("svf", "operator", ALL, True, "cascade of state-variable filters"),
    OperatorLine("first_order", "operator", ALL, True, "one pole and one zero"),
    OperatorLine("envelope", "operator", ALL, True, "follower with attack and release"),
    OperatorLine("event_counter", "operator", "by surrogate", True, "events over a threshold"),
    OperatorLine("recurrence", "operator", ALL, True, "any formula with feedback"),
    OperatorLine("fir", "operator", ALL, True, "finite impulse response"),
    OperatorLine("causal_conv1d", "operator", ALL, True, "convolution that keeps its past"),
    OperatorLine("decimate", "operator", "input", True, "every n-th sample"),
    OperatorLine("frames", "operator", "input, state", True, "overlapping frames of a stream"),
    OperatorLine("delay", "operator", "input, state", True, "some whole samples later"),
    OperatorLine("tapped_delay", "operator", ALL, True, "a few taps anywhere in the past"),
    OperatorLine("resample", "operator", ALL, True, "polyphase filter for another rate"),
    OperatorLine("oscillator", "operator", ALL, True, "a sine with a phase that is kept"),
    OperatorLine("noise", "operator", "input, height", True, "three congruential generators"),
    OperatorLine("moving_max", "operator", "nothing", True, "the largest of the last samples"),
    OperatorLine("peaks", "operator", "state", True, "samples above their neighbours"),
    OperatorLine("swept", "operator", ALL, True, "an svf whose cut-off is a signal"),
    OperatorLine("swept_quality", "operator", ALL, True, "an svf whose cut-off and Q are signals"),
    OperatorLine("swept_delay", "operator", ALL, True, "a delay whose length is a signal"),
    OperatorLine("player", "operator", "speed, state", True, "the place in a recording"),
    OperatorLine("between", "operator", "share, values", True, "values at a place in a table"),
    OperatorLine("table", "operator", ALL, True, "values between the values of a table"),
    OperatorLine("first_sample", "operator", "input", True, "steady state for the first sample"),
    OperatorLine("rfft", "operator", "input", True, "Fourier transform of frames"),
    OperatorLine("spectrum", "operator", "input, window", True, "power of windowed frames' bins"),
    OperatorLine("bands", "operator", ALL, True, "weighted sums over bins"),
    OperatorLine("logarithm", "operator", "input", True, "ln of what is above a least value"),
    OperatorLine("amax, logsumexp, var, std", "torch", ALL, True, "and other reductions"),
    OperatorLine("exp2, hypot, atan2, fmod", "torch", ALL, True, "and other C functions"),
    OperatorLine("<<, >>, &, |, ^", "torch", "none", True, "shifts and bits of integers"),
    OperatorLine("cumsum, cumprod, cummax", "torch", ALL, True, "of a frame or of channels"),
    OperatorLine("sort, topk, median, quantile", "torch", ALL, True, "of a frame or of channels"),
    OperatorLine("scatter, index_add, x[i] = y", "torch", ALL, True, "writing at indices"),
    OperatorLine("unfold, roll, flip, interpolate", "torch", ALL, True, "of a frame"),
    OperatorLine("GRU, LSTM", "torch", ALL, True, "of a frame; a loop on the device"),
    OperatorLine("scan", "torch", ALL, True, "a loop on the device"),
    OperatorLine("fft.rfft, fft.irfft, stft", "torch", ALL, True, "complex as pairs of numbers"),
    OperatorLine("lfilter, biquad, *_biquad", "torchaudio", ALL, True, "their state is carried"),
    OperatorLine("Spectrogram, MelSpectrogram", "torchaudio", ALL, True, "of a frame"),
    OperatorLine("MFCC, AmplitudeToDB", "torchaudio", ALL, True, "of a frame"),
)
