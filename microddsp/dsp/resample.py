"""Another sample rate, with the filter that it needs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, positive, whole, zeros
from microddsp.dsp.butterworth import Lowpass
from microddsp.dsp.decimate import Decimate
from microddsp.errors import ParameterError


class Resample(Block):
    """`up` samples for every `down`, through a low-pass that keeps what both rates can hold.

    Only outputs that are kept are computed. Chunks must be multiples of `down` (in lowest terms).
    The taps are learnable; they start as a Kaiser-windowed sinc, delayed by half its length.

    Args:
        up, down: Positive whole numbers.
        half_width: Input samples (output samples when the rate falls) on each side of the sinc;
            more make a sharper filter.
        sample_rate_hz: Samples per second of the input; only for print-outs and checks.

    Raises:
        ParameterError: Not positive whole numbers.

    Source: `scipy.signal.resample_poly`, whose default filter this is for half_width=10.
    """

    def __init__(
        self,
        up: int = 1,
        down: int = 1,
        *,
        half_width: int = 10,
        sample_rate_hz: float | None = None,
    ) -> None:
        from scipy.signal import firwin

        super().__init__()
        up, down = whole("up", up, "Resample"), whole("down", down, "Resample")
        half = whole("half_width", half_width, "Resample")
        if up == down:
            raise ParameterError("up and down are the same rate", where="Resample")
        if sample_rate_hz is not None:
            self.sample_rate_hz = float(positive("sample_rate_hz", sample_rate_hz, "Resample"))
        divisor = math.gcd(up, down)
        self.up, self.down = up // divisor, down // divisor
        ratio = max(self.up, self.down)
        count = 2 * half * ratio + 1
        values = firwin(count, 1 / ratio, window=("kaiser", 5.0)) * self.up
        self.taps = torch.nn.Parameter(torch.as_tensor(values, dtype=torch.float32))

    @property
    def delay_s(self) -> float:
        """Seconds by which the output is late; needs the sample rate.

        Raises:
            ParameterError: No sample_rate_hz was given.
        """
        if self.sample_rate_hz is None:
            raise ParameterError("delay_s needs sample_rate_hz", where="Resample")
        return (self.taps.shape[0] - 1) / 2 / (self.up * self.sample_rate_hz)

    @property
    def _length(self) -> int:
        """Input samples that an output is made of."""
        return -(-int(self.taps.shape[0]) // self.up)

    def initial_state(self, x: Tensor) -> State:
        return {"line": zeros(x, self._length - 1)}

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        taps = self.taps.to(x)
        if self.up == 1:  # a strided convolution, for which the device has the faster loop
            channels = x.shape[-2]
            weight = taps.flip(-1).expand(channels, 1, -1)
            y, line = relax_ops.causal_conv1d(
                x, weight, None, state["line"], self.down, 1, channels
            )
            return y, {"line": line}
        missing = self._length * self.up - taps.shape[0]
        taps = torch.nn.functional.pad(taps, (0, missing))
        y, line = relax_ops.resample(x, taps, state["line"], self.up, self.down)
        return y, {"line": line}

    @property
    def settle_samples(self) -> int:
        return self._length - 1

    def extra_repr(self) -> str:
        rate = f", sample_rate_hz={self.sample_rate_hz:g}" if self.sample_rate_hz else ""
        return f"up={self.up}, down={self.down}, taps={self.taps.shape[0]}{rate}"


def decimate_then_filter(
    build: Callable[[float], torch.nn.Module],
    *,
    keep_hz: float,
    sample_rate_hz: float,
    order: int = 6,
) -> torch.nn.Sequential:
    """A filter with low cut-offs, run at a rate that suits it.

    A cut-off far below the sample rate costs direct forms their precision and FIR filters their
    length. The chain is a low-pass, a decimation by the largest power of two that leaves keep_hz
    below a tenth of the new rate, and what `build(new_rate_hz)` gives.

    Args:
        build: Makes the filter for a sample rate in Hz.
        keep_hz: The highest frequency that the filter must see.
        sample_rate_hz: Samples per second of the input.
        order: Of the Butterworth low-pass, which starts to fall at a quarter of the new rate: what
            aliases onto keep_hz or below is damped by order * 10 dB at least.

    Raises:
        ParameterError: keep_hz is not positive or above a twentieth of the rate: nothing to gain.
    """
    where = "decimate_then_filter"
    rate = float(positive("sample_rate_hz", sample_rate_hz, where))
    keep = float(positive("keep_hz", keep_hz, where))
    factor = 1
    while rate / (2 * factor) >= 10 * keep:
        factor *= 2
    if factor == 1:
        raise ParameterError(
            f"keep_hz of {keep:g} is too close to the sample rate of {rate:g} Hz to decimate",
            where=where,
            hint="use the filter alone",
        )
    slow = rate / factor
    return torch.nn.Sequential(
        Lowpass(slow / 4, order, sample_rate_hz=rate), Decimate(factor), build(slow)
    )
