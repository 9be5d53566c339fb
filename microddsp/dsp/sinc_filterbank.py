"""A bank of windowed-sinc band-passes with learnable edges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, positive, show, whole, zeros
from microddsp.dsp.filter import Frequency
from microddsp.dsp.spacing import mel_edges
from microddsp.errors import ParameterError, SignalError


class SincFilterbank(Block):
    """One channel in, a band in each channel out: FIR band-passes of two numbers each.

    h[n] = (2 f2 sinc(2 f2 n) - 2 f1 sinc(2 f1 n)) w[n], frequencies in cycles per sample, w a
    Hamming window, n from the middle of the taps.

    Args:
        low_hz, high_hz: Edges of each band, 0 < low < high < half the sample rate; one number is a
            bank of one.
        taps: Length of each filter; an odd one has its middle on a sample.
        sample_rate_hz: Samples per second.
        hop: Compute every hop-th output only; chunks must be multiples of it.

    Raises:
        ParameterError: A value outside its range.

    Source: M. Ravanelli and Y. Bengio, "Speaker recognition from raw waveform with SincNet", 2018.
    """

    def __init__(
        self,
        low_hz: float | Sequence[float],
        high_hz: float | Sequence[float],
        taps: int,
        *,
        sample_rate_hz: float,
        hop: int = 1,
    ) -> None:
        super().__init__()
        where = "SincFilterbank"
        self.sample_rate_hz = float(positive("sample_rate_hz", sample_rate_hz, where))
        self.taps = whole("taps", taps, where)
        self.hop = whole("hop", hop, where)
        lows, highs = (np.atleast_1d(np.asarray(hz, dtype="float64")) for hz in (low_hz, high_hz))
        if lows.shape != highs.shape or lows.ndim != 1:
            raise ParameterError(
                f"there are {lows.size} low and {highs.size} high edges", where=where
            )
        self.low = Frequency("low_hz", lows.tolist(), self.sample_rate_hz, where)
        self.high = Frequency(
            "high_hz", highs.tolist(), self.sample_rate_hz, where, above=lows.tolist()
        )

    @classmethod
    def mel(
        cls,
        bands: int,
        taps: int,
        *,
        sample_rate_hz: float,
        low_hz: float = 30.0,
        high_hz: float | None = None,
        hop: int = 1,
    ) -> SincFilterbank:
        """Bands side by side, of equal width on the mel scale; up to 0.49 times the rate."""
        rate = float(positive("sample_rate_hz", sample_rate_hz, "SincFilterbank"))
        high = 0.49 * rate if high_hz is None else high_hz
        edges = mel_edges(bands, low_hz, high, "SincFilterbank")
        return cls(edges[:-1], edges[1:], taps, sample_rate_hz=rate, hop=hop)

    @property
    def low_hz(self) -> Tensor:
        """The lower edges in Hz."""
        return self.low()

    @property
    def high_hz(self) -> Tensor:
        """The upper edges in Hz, always above the lower ones."""
        return self.high(self.low())

    @property
    def band_hz(self) -> Tensor:
        """The widths in Hz."""
        return self.high_hz - self.low_hz

    def design(self) -> dict[str, Tensor]:
        assert self.sample_rate_hz is not None
        low, high = (hz[:, None] / self.sample_rate_hz for hz in (self.low_hz, self.high_hz))
        n = torch.arange(self.taps, dtype=low.dtype, device=low.device) - (self.taps - 1) / 2
        band = 2 * high * torch.sinc(2 * high * n) - 2 * low * torch.sinc(2 * low * n)
        window = torch.hamming_window(self.taps, periodic=False, dtype=low.dtype, device=low.device)
        return {"taps": band * window}

    def initial_state(self, x: Tensor) -> State:
        return {"line": zeros(x, self.taps - 1)}

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if x.shape[-2] != 1:
            raise SignalError(
                f"a filterbank takes one channel, got {x.shape[-2]}", where="SincFilterbank"
            )
        # symmetric, so that correlation is convolution
        weight = self.designed("taps").to(x)[:, None]
        y, line = relax_ops.causal_conv1d(x, weight, None, state["line"], self.hop, 1, 1)
        return y, {"line": line}

    @property
    def settle_samples(self) -> int:
        return self.taps - 1

    def extra_repr(self) -> str:
        assert self.sample_rate_hz is not None
        return (
            f"low_hz={show(self.low_hz)}, high_hz={show(self.high_hz)}, taps={self.taps}, "
            f"sample_rate_hz={self.sample_rate_hz:g}, hop={self.hop}"
        )
