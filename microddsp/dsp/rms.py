"""Running root mean square."""

from __future__ import annotations

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, decay_samples, positive, show, zeros
from microddsp.dsp.filter import Positive
from microddsp.dsp.parameters import Number
from microddsp.errors import ParameterError


class RMS(Block):
    """The root of the mean square over the recent past.

    Args:
        time_constant_s: Seconds over which the past fades exponentially (learnable; one or one per
            channel), or
        window_s: seconds of a sharp window (fixed; each of its samples costs a multiply).
        sample_rate_hz: Samples per second.
        floor: What silence gives, positive: the root has no slope at zero.

    Raises:
        ParameterError: A value outside its range, or not just one of the two times.

    Source: U. Zoelzer (ed.), "DAFX", 2nd ed., 4.2.1; coefficient 1 - exp(-1/(t fs)).
    """

    def __init__(
        self,
        time_constant_s: Number | None = None,
        *,
        window_s: float | None = None,
        sample_rate_hz: float,
        floor: float = 1e-6,
    ) -> None:
        super().__init__()
        if (time_constant_s is None) == (window_s is None):
            raise ParameterError("give time_constant_s or window_s", where="RMS")
        self.sample_rate_hz = float(positive("sample_rate_hz", sample_rate_hz, "RMS"))
        self.floor = float(positive("floor", floor, "RMS"))
        self.window = 0
        if window_s is not None:
            seconds = float(positive("window_s", window_s, "RMS"))
            self.window = max(round(seconds * self.sample_rate_hz), 1)
        self.time = (
            None
            if time_constant_s is None
            else Positive(positive("time_constant_s", time_constant_s, "RMS"))
        )

    @property
    def time_constant_s(self) -> Tensor | None:
        """The time constant in seconds; None for a window."""
        return None if self.time is None else self.time()

    @property
    def window_s(self) -> float | None:
        """The window in seconds; None for a time constant."""
        assert self.sample_rate_hz is not None
        return self.window / self.sample_rate_hz if self.window else None

    def design(self) -> dict[str, Tensor]:
        assert self.sample_rate_hz is not None
        seconds = self.time_constant_s
        if seconds is None:
            share = torch.full((self.window,), 1 / self.window, dtype=torch.float64)
            return {"coefficients": share}
        pole = torch.exp(-1 / (seconds * self.sample_rate_hz))
        return {"coefficients": torch.stack([1 - pole, torch.zeros_like(pole), -pole], -1)}

    def initial_state(self, x: Tensor) -> State:
        return {"mean": zeros(x, self.window - 1 if self.window else 1)}

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        operator = relax_ops.fir if self.window else relax_ops.first_order
        mean, past = operator(x * x, self.designed("coefficients").to(x), state["mean"])
        return torch.sqrt(mean + self.floor**2), {"mean": past}

    @property
    def settle_samples(self) -> int:
        if self.time is None:
            return self.window - 1
        assert self.sample_rate_hz is not None
        return decay_samples(float(self.time().detach().max()), self.sample_rate_hz)

    def extra_repr(self) -> str:
        time = (
            f"window_s={self.window_s:g}"
            if self.time is None
            else f"time_constant_s={show(self.time())}"
        )
        return f"{time}, sample_rate_hz={self.sample_rate_hz:g}, floor={self.floor:g}"
