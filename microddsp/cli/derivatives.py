"""The table behind `microddsp ops --derivatives`. Plain data; a test holds each line to it.

`docs/derivatives.md` shows the same table.
"""

from __future__ import annotations

from dataclasses import dataclass

YES, ZERO = "yes", "zero"


@dataclass(frozen=True, slots=True)
class DerivativeLine:
    """reverse: "yes", or "zero" where the function is flat; forward and second (Hessian-vector
    products) hold alike; compiles: whether it runs on the device."""

    name: str
    reverse: str = YES
    forward: bool = True
    second: bool = True
    compiles: bool = True
    note: str = ""


DERIVATIVES = (
    DerivativeLine("x + p"),
    DerivativeLine("x - p"),
    DerivativeLine("x * p"),
    DerivativeLine("p / x"),
    DerivativeLine("x ** p"),
    DerivativeLine("x % p", note="the sign of p; its jumps have no derivative"),
    DerivativeLine("fmod", note="the sign of x"),
    DerivativeLine("remainder", note="as %"),
    DerivativeLine("< <= > >= == !=", ZERO, note="as 0 and 1"),
    DerivativeLine("& | ^ ~", ZERO, note="on whole numbers"),
    DerivativeLine("<< >>", ZERO, note="on whole numbers"),
    DerivativeLine("abs", note="0 at 0"),
    DerivativeLine("floor", ZERO),
    DerivativeLine("ceil", ZERO),
    DerivativeLine("round", ZERO, note="halves to even"),
    DerivativeLine("rint", ZERO, note="torch.round"),
    DerivativeLine("trunc", ZERO),
    DerivativeLine("min", note="half to each where both are equal"),
    DerivativeLine("max", note="half to each where both are equal"),
    DerivativeLine("sqrt", note="infinite at 0"),
    DerivativeLine("exp"),
    DerivativeLine("log"),
    DerivativeLine("log10"),
    DerivativeLine("sin"),
    DerivativeLine("cos"),
    DerivativeLine("tan"),
    DerivativeLine("asin"),
    DerivativeLine("acos"),
    DerivativeLine("atan"),
    DerivativeLine("atan2"),
    DerivativeLine("sinh"),
    DerivativeLine("cosh"),
    DerivativeLine("tanh"),
    DerivativeLine("select2", note="torch.where; of the branch that is taken"),
    DerivativeLine("select3", note="two of them"),
    DerivativeLine("table, read", note="interpolated: by place and content"),
    DerivativeLine("table, learned", note="dsp.Table, dsp.Waveform"),
    DerivativeLine("table, written", note="scatter, not in place"),
    DerivativeLine("waveform", note="a stored sound, played in a loop within a frame"),
    DerivativeLine(
        "foreign function",
        compiles=False,
        note="torch.autograd.Function with backward and jvp; without jvp forward mode raises",
    ),
    DerivativeLine("foreign function, in torch", note="one that calls torch only"),
    DerivativeLine("oscillator", note="dsp.Oscillator: frequency, phase and input"),
    DerivativeLine("delay, fixed", note="dsp.Delay"),
    DerivativeLine("delay, learned", note="dsp.LearnableDelay: the slope of the signal"),
    DerivativeLine("delay, moving", note="dsp.SweptDelay, by both signals"),
    DerivativeLine("recursion, one pole", note="dsp.OnePole"),
    DerivativeLine("recursion, sections", note="dsp.Bandpass, Biquad, SOS, IIR"),
    DerivativeLine("recursion, state-variable", note="dsp.SVF"),
    DerivativeLine("recursion, moving cut-off", note="dsp.SweptFilter, by both signals"),
    DerivativeLine("recursion, moving quality", note="dsp.SweptFilter, by three signals"),
    DerivativeLine("recursion with a branch", note="dsp.Envelope"),
    DerivativeLine("recursion, a formula", note="dsp.Recurrence"),
    DerivativeLine("recursion, tensors", note="dsp.Recurrence with a delay line in the loop"),
    DerivativeLine("convolution", note="dsp.FIR"),
    DerivativeLine("decimation", note="dsp.Decimate"),
)
