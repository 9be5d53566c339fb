"""What each row of the table of derivatives computes, and what numpy says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.signal
import torch
from torch import Tensor

from microddsp import dsp

RATE = 1000.0
SAMPLES = 32
WAVE = np.cos(np.arange(7.0))


class Formula(torch.nn.Module):
    """A function of the signal and one learned number."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], value: float = 0.7) -> None:
        super().__init__()
        self.function = function
        self.p = torch.nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.p.to(x))


@dataclass(frozen=True)
class Case:
    """`oracle` gives the output from the input, both numpy."""

    make: Callable[[], torch.nn.Module]
    oracle: Callable[[np.ndarray], np.ndarray]
    low: float = -2.0
    high: float = 2.0


def formula(
    function: Callable[[Tensor, Tensor], Tensor],
    oracle: Callable[[np.ndarray, np.ndarray], np.ndarray],
    low: float = -2.0,
    high: float = 2.0,
    value: float = 0.7,
) -> Case:
    return Case(lambda: Formula(function, value), lambda x: oracle(x, np.float32(value)), low, high)


def unary(name: str, low: float = -2.0, high: float = 2.0, oracle: str = "") -> Case:
    """A function of x * p."""
    of_torch, of_numpy = getattr(torch, name), getattr(np, oracle or name)
    return formula(lambda x, p: of_torch(x * p), lambda x, p: of_numpy(x * p), low, high)


NUMPY = {
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "eq": "equal",
    "ne": "not_equal",
}


def bits(function: Callable[[Tensor], Tensor], oracle: Callable[[np.ndarray], np.ndarray]) -> Case:
    """Of the signal as whole numbers, times p in front."""
    return formula(
        lambda x, p: function((x * 10).to(torch.int32)).to(x.dtype),
        lambda x, p: oracle((x * 10).astype(np.int32)).astype(x.dtype),
    )


def table_read(x: Tensor, p: Tensor) -> Tensor:
    """Interpolated between neighbours; p stretches the table."""
    table = torch.tensor(WAVE).to(x) * p
    place = (x.clamp(-1.9, 1.9) + 2) * 1.5
    index = torch.floor(place)
    low = index.to(torch.int64)
    part = place - index
    return table[low] * (1 - part) + table[low + 1] * part


def table_read_numpy(x: np.ndarray, p: np.ndarray) -> np.ndarray:
    return np.interp((np.clip(x, -1.9, 1.9) + 2) * 1.5, np.arange(7), WAVE * p)


def table_write(x: Tensor, p: Tensor) -> Tensor:
    """Every fourth sample goes into a table, which is read backwards; a new tensor each time."""
    table = torch.zeros(x.shape[-2], 8).to(x)
    places = torch.arange(8).expand(x.shape[-2], 8)
    table = table.scatter(-1, places, x[..., ::4] * p)
    return table.flip(-1)


def waveform(x: Tensor, p: Tensor) -> Tensor:
    """A stored sound, played in a loop at level p under the signal."""
    wave = torch.tensor(WAVE).to(x)
    return x + p * wave[torch.arange(x.shape[-1]) % 7]


class Cubed(torch.autograd.Function):
    """Somebody else's code with a derivative given by hand."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.from_numpy(np.power(x.detach().numpy(), 3))

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return g * 3 * ctx.saved_tensors[0] ** 2

    @staticmethod
    def jvp(ctx, tangent: Tensor) -> Tensor:
        return tangent * 3 * ctx.saved_tensors[0] ** 2


class TorchCubed(torch.autograd.Function):
    """The same, written in torch."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x * x

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    backward = Cubed.backward
    jvp = Cubed.jvp


class Driven(torch.nn.Module):
    """A low-pass whose cut-off is the signal that it filters, and its quality too if `moving`."""

    def __init__(self, moving: bool = False) -> None:
        super().__init__()
        self.filter = dsp.SweptFilter("lowpass", None if moving else 2.0, sample_rate_hz=RATE)
        self.moving = moving

    def forward(self, x: Tensor) -> Tensor:
        quality = [1.0 + 0.3 * x] if self.moving else []
        y: Tensor = self.filter(x, 120.0 + 40.0 * x, *quality)
        return y


def driven(x: np.ndarray, moving: bool = False) -> np.ndarray:
    """Trapezoidal integrators, each sample's linear system solved."""
    y, s = np.empty_like(x), np.zeros(2)
    for n, sample in enumerate(x[0]):
        g = np.tan(np.pi * (120.0 + 40.0 * sample) / RATE)
        q = 1.0 + 0.3 * sample if moving else 2.0
        v = np.linalg.solve([[1 + g / q, g], [-g, 1.0]], [s[0] + g * sample, s[1]])
        s = 2 * v - s
        y[0, n] = v[1]
    return y


class Swaying(torch.nn.Module):
    """A delay that the signal itself drives, around 7.3 samples."""

    def __init__(self) -> None:
        super().__init__()
        self.delay = dsp.SweptDelay(0.02, sample_rate_hz=RATE)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.delay(x, 0.0073 + 0.0029 * x)
        return y


def swaying(x: np.ndarray) -> np.ndarray:
    past = np.concatenate([np.zeros(20), x[0]])
    now = np.arange(x.shape[-1])
    return np.interp(now - RATE * (0.0073 + 0.0029 * x), np.arange(-20, x.shape[-1]), past)


def tone(x: np.ndarray) -> np.ndarray:
    """80 Hz, as float32 stores it, and what the input adds, from a fifth of a cycle on."""
    frequency = dsp.Oscillator(80.0, sample_rate_hz=RATE).frequency_hz.detach().numpy()
    steps = np.cumsum(frequency + x, -1) / RATE
    return np.sin(2 * np.pi * (np.pad(steps, ((0, 0), (1, 0)))[:, :-1] + np.float32(0.2)))


def sections(module: dsp.Filter) -> np.ndarray:
    """Coefficients as scipy's `sosfilt` takes them."""
    b0, b1, b2, a1, a2 = module.coefficients().detach().numpy().T
    return np.stack([b0, b1, b2, np.ones_like(b0), a1, a2], -1)


def filtered(make: Callable[[], dsp.Filter]) -> Case:
    return Case(make, lambda x: scipy.signal.sosfilt(sections(make()), x))


def late(x: np.ndarray) -> np.ndarray:
    """By 3.4 samples, linearly between two."""
    padded = np.pad(x, ((0, 0), (4, 0)))[:, :SAMPLES]
    return 0.6 * np.pad(x, ((0, 0), (3, 0)))[:, :SAMPLES] + 0.4 * padded


def follower(x: np.ndarray) -> np.ndarray:
    attack, release = -np.expm1(-1 / (np.array([0.002, 0.02]) * RATE))
    y, level = np.empty_like(x), np.zeros(x.shape[0])
    for n, sample in enumerate(np.abs(x).T):
        difference = sample - level
        level = level + np.where(difference > 0, attack, release) * difference
        y[:, n] = level
    return y


def one_pole(x: np.ndarray) -> np.ndarray:
    pole = np.exp(-2 * np.pi * 60.0 / RATE)
    return scipy.signal.lfilter([1 - pole], [1, -pole], x)


def comb(x: Tensor, line: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    y = x + gain * line[-1]
    return y, torch.cat([y, line[:-1]])


CASES: dict[str, Case] = {
    "x + p": formula(lambda x, p: x + p, lambda x, p: x + p),
    "x - p": formula(lambda x, p: x - p, lambda x, p: x - p),
    "x * p": formula(lambda x, p: x * p, lambda x, p: x * p),
    "p / x": formula(lambda x, p: p / x, lambda x, p: p / x, 0.5),
    "x ** p": formula(lambda x, p: x**p, lambda x, p: x**p, 0.2, value=1.7),
    "x % p": formula(lambda x, p: x % p, lambda x, p: x % p, value=0.83),
    "fmod": formula(torch.fmod, np.fmod, value=0.83),
    "remainder": formula(torch.remainder, np.remainder, value=-0.83),
    "< <= > >= == !=": formula(
        lambda x, p: sum(
            getattr(torch, n)(x, p).to(x.dtype) * (i + 1) for i, n in enumerate(NUMPY)
        ),
        lambda x, p: sum(
            getattr(np, n)(x, p).astype(x.dtype) * (i + 1) for i, n in enumerate(NUMPY.values())
        ),
    ),
    "& | ^ ~": bits(lambda i: ((i & 6) | 1) ^ (~i & 3), lambda i: ((i & 6) | 1) ^ (~i & 3)),
    "<< >>": bits(lambda i: (i << 2) + (i >> 1), lambda i: (i << 2) + (i >> 1)),
    "abs": unary("abs"),
    "floor": unary("floor"),
    "ceil": unary("ceil"),
    "round": unary("round"),
    "rint": unary("round", oracle="rint"),
    "trunc": unary("trunc"),
    "min": formula(torch.minimum, np.minimum),
    "max": formula(torch.maximum, np.maximum),
    "sqrt": unary("sqrt", 0.1),
    "exp": unary("exp"),
    "log": unary("log", 0.1),
    "log10": unary("log10", 0.1),
    "sin": unary("sin"),
    "cos": unary("cos"),
    "tan": unary("tan"),
    "asin": unary("asin", -1.2, 1.2, "arcsin"),
    "acos": unary("acos", -1.2, 1.2, "arccos"),
    "atan": unary("atan", oracle="arctan"),
    "atan2": formula(torch.atan2, np.arctan2),
    "sinh": unary("sinh"),
    "cosh": unary("cosh"),
    "tanh": unary("tanh"),
    "select2": formula(
        lambda x, p: torch.where(x > 0.1, x * p, p * p),
        lambda x, p: np.where(x > 0.1, x * p, p * p),
    ),
    "select3": formula(
        lambda x, p: torch.where(x < -0.5, x * x, torch.where(x < 0.5, x * p, p * p * x)),
        lambda x, p: np.select([x < -0.5, x < 0.5], [x * x, x * p], p * p * x),
    ),
    "table, read": formula(table_read, table_read_numpy),
    "table, learned": Case(
        lambda: dsp.Table(WAVE, low=-2.01, high=2.02),
        lambda x: np.interp(x, np.linspace(-2.01, 2.02, 7), WAVE.astype("float32")),
    ),
    "table, written": formula(table_write, lambda x, p: (x[..., ::4] * p)[..., ::-1]),
    "waveform": formula(waveform, lambda x, p: x + p * WAVE[np.arange(SAMPLES) % 7]),
    "foreign function": formula(lambda x, p: Cubed.apply(x * p), lambda x, p: (x * p) ** 3),
    "foreign function, in torch": formula(
        lambda x, p: TorchCubed.apply(x * p), lambda x, p: (x * p) ** 3
    ),
    "oscillator": Case(lambda: dsp.Oscillator(80.0, phase=0.2, sample_rate_hz=RATE), tone),
    "delay, fixed": Case(
        lambda: torch.nn.Sequential(dsp.Gain(0.7), dsp.Delay(5)),
        lambda x: np.pad(x * np.float32(0.7), ((0, 0), (5, 0)))[:, :SAMPLES],
    ),
    "delay, learned": Case(
        lambda: dsp.LearnableDelay(0.0034, max_s=0.02, sample_rate_hz=RATE), late
    ),
    "delay, moving": Case(Swaying, swaying),
    "recursion, one pole": Case(lambda: dsp.OnePole(60.0, sample_rate_hz=RATE), one_pole),
    "recursion, sections": filtered(lambda: dsp.Bandpass(60.0, 160.0, 2, sample_rate_hz=RATE)),
    "recursion, state-variable": Case(
        lambda: dsp.SVF("lowpass", 80.0, 2.0, RATE),
        lambda x: scipy.signal.sosfilt(
            sections(dsp.Biquad("lowpass", 80.0, 2.0, RATE, form="direct")), x
        ),
    ),
    "recursion, moving cut-off": Case(Driven, driven),
    "recursion, moving quality": Case(lambda: Driven(moving=True), lambda x: driven(x, True)),
    "recursion with a branch": Case(
        lambda: dsp.Envelope(0.002, 0.02, sample_rate_hz=RATE), follower
    ),
    "recursion, a formula": Case(
        lambda: dsp.Recurrence(lambda x, y, leak: x + leak * y, parameters={"leak": 0.75}),
        lambda x: scipy.signal.lfilter([1.0], [1.0, -0.75], x),
    ),
    "recursion, tensors": Case(
        lambda: dsp.Recurrence(comb, torch.zeros(5), parameters={"gain": 0.5}),
        lambda x: scipy.signal.lfilter([1.0], [1.0, 0.0, 0.0, 0.0, 0.0, -0.5], x),
    ),
    "convolution": Case(
        lambda: dsp.FIR([0.5, -0.25, 1.0]),
        lambda x: scipy.signal.lfilter([0.5, -0.25, 1.0], [1.0], x),
    ),
    "decimation": Case(
        lambda: torch.nn.Sequential(dsp.Gain(0.7), dsp.Decimate(4)),
        lambda x: (x * np.float32(0.7))[:, ::4],
    ),
}
