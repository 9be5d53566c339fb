"""Finite impulse response filters with learnable taps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, positive, whole, zeros
from microddsp.errors import ParameterError


class FIR(Block):
    """y[n] = sum over k of taps[k] x[n-k].

    Args:
        taps: (taps,) for all channels, or (channels, taps).
        sample_rate_hz: Samples per second; only for print-outs and checks.

    Raises:
        ParameterError: No taps, or not finite.
    """

    def __init__(
        self, taps: np.ndarray | Sequence[float] | Tensor, *, sample_rate_hz: float | None = None
    ) -> None:
        super().__init__()
        values = torch.as_tensor(np.asarray(taps, dtype="float32"))
        if values.dim() not in (1, 2) or not values.numel():
            raise ParameterError(
                f"taps are (taps,) or (channels, taps), got {tuple(values.shape)}", where="FIR"
            )
        if not bool(torch.isfinite(values).all()):
            raise ParameterError("taps are not finite", where="FIR")
        self.taps = torch.nn.Parameter(values)
        if sample_rate_hz is not None:
            self.sample_rate_hz = float(positive("sample_rate_hz", sample_rate_hz, "FIR"))

    @classmethod
    def lowpass(cls, cutoff_hz: float, taps: int, *, sample_rate_hz: float) -> FIR:
        """A windowed-sinc low-pass (Hamming) as start value.

        Source: `scipy.signal.firwin`.
        """
        return cls._windowed(cutoff_hz, taps, sample_rate_hz, "lowpass")

    @classmethod
    def bandpass(cls, low_hz: float, high_hz: float, taps: int, *, sample_rate_hz: float) -> FIR:
        """A windowed-sinc band-pass (Hamming) as start value.

        Source: `scipy.signal.firwin`.
        """
        return cls._windowed([low_hz, high_hz], taps, sample_rate_hz, "bandpass")

    @classmethod
    def _windowed(
        cls, cutoff_hz: float | list[float], taps: int, sample_rate_hz: float, kind: str
    ) -> FIR:
        from scipy.signal import firwin

        count = whole("taps", taps, "FIR")
        try:
            values = firwin(count, cutoff_hz, pass_zero=kind, fs=sample_rate_hz)
        except ValueError as error:
            raise ParameterError(str(error), where="FIR") from error
        return cls(values, sample_rate_hz=sample_rate_hz)

    def initial_state(self, x: Tensor) -> State:
        return {"line": zeros(x, self.taps.shape[-1] - 1)}

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, line = relax_ops.fir(x, self.taps.to(x), state["line"])
        return y, {"line": line}

    @property
    def settle_samples(self) -> int:
        return int(self.taps.shape[-1]) - 1

    def extra_repr(self) -> str:
        rate = f", sample_rate_hz={self.sample_rate_hz:g}" if self.sample_rate_hz else ""
        return f"taps={self.taps.shape[-1]}{rate}"
