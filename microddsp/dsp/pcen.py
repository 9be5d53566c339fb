"""Per-channel energy normalisation: each band against its own past."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, decay_samples, positive, show, whole, zeros
from microddsp.dsp.filter import Positive, settled
from microddsp.errors import ParameterError, SignalError

Number = float | Sequence[float]
INITIALS = ("first_frame", "zero")


class PCEN(Block):
    """(x / (eps + m) ** gain + bias) ** power - bias ** power, of (..., channels, bands, frames).

    m is each band smoothed over frames: m += s (x - m). All four numbers are learned, one for all
    bands or one a band, and stay positive.

    Args:
        gain, bias, power: Of the formula; a number, or one a band.
        time_constant_s: Of the smoothing, in seconds; a number, or one a band.
        hop: Samples between frames.
        sample_rate_hz: Samples per second.
        eps: What silence is divided by, positive.
        initial: "first_frame": m starts as the first frame; "zero": at 0.

    Raises:
        ParameterError: A value that is not positive, or numbers that do not agree on the bands.

    Source: Y. Wang and others, "Trainable Frontend for Robust and Far-Field Keyword Spotting",
    ICASSP 2017; the smoothing as in `librosa.pcen`.
    """

    def __init__(
        self,
        *,
        gain: Number = 0.98,
        bias: Number = 2.0,
        power: Number = 0.5,
        time_constant_s: Number = 0.4,
        hop: int,
        sample_rate_hz: float,
        eps: float = 1e-6,
        initial: str = "first_frame",
    ) -> None:
        super().__init__()
        where = "PCEN"
        given = {
            "gain": gain,
            "bias": bias,
            "power": power,
            "time_constant_s": time_constant_s,
        }
        values = {name: positive(name, value, where) for name, value in given.items()}
        counts = {value.numel() for value in values.values()} - {1}
        if len(counts) > 1:
            raise ParameterError(f"numbers for {sorted(counts)} bands do not fit", where=where)
        if initial not in INITIALS:
            raise ParameterError(
                f"unknown initial {initial!r}", where=where, hint=f"one of {', '.join(INITIALS)}"
            )
        self.hop = whole("hop", hop, where)
        self.sample_rate_hz = float(positive("sample_rate_hz", sample_rate_hz, where))
        self.bands = next(iter(counts), None)  # None: the same numbers for any number of bands
        self.eps = float(positive("eps", eps, where))
        self.initial = initial
        self.gain, self.bias = Positive(values["gain"]), Positive(values["bias"])
        self.power = Positive(values["power"])
        self.time_constant = Positive(values["time_constant_s"])

    def design(self) -> dict[str, Tensor]:
        """Coefficients of the smoothing, and of the formula by band (bands or 1, 1)."""
        assert self.sample_rate_hz is not None
        frames = self.time_constant() * self.sample_rate_hz / self.hop
        # the pole whose square response falls as that of a decay of so many frames
        s = (torch.sqrt(1 + 4 * frames**2) - 1) / (2 * frames**2)
        c = torch.stack([s, torch.zeros_like(s), s - 1], -1)
        bias, power = self.bias(), self.power()
        return {
            "coefficients": c,
            "settled": settled("first_order", c),
            "gain": _column(-self.gain()),
            "inverse_bias": _column(1 / bias),
            "power": _column(power),
            "scale": _column(bias**power),
        }

    def initial_state(self, x: Tensor) -> State:
        rows = _rows(x)
        state = {"z": zeros(rows, 1)}
        if self.initial == "first_frame":
            state["held"] = zeros(rows, 1)
            state["started"] = x.new_zeros(1, dtype=torch.int32)
        return state

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        rows, following = _rows(x), dict(state)
        z = state["z"]
        c, start = (self._by_row(key, x) for key in ("coefficients", "settled"))
        if self.initial == "first_frame":
            z, following["held"], following["started"] = relax_ops.first_sample(
                rows, start, z, state["held"], state["started"]
            )
        m, following["z"] = relax_ops.first_order(rows, c, z)
        gain, inverse_bias, power, scale = (
            self.designed(key).to(x) for key in ("gain", "inverse_bias", "power", "scale")
        )
        level = torch.exp(gain * torch.log(m.reshape(x.shape) + self.eps))
        return scale * torch.expm1(power * torch.log1p(x * level * inverse_bias)), following

    def _by_row(self, key: str, x: Tensor) -> Tensor:
        """A design for each band, repeated for each channel."""
        value = self.designed(key).to(x)
        if value.dim() == 1:
            return value
        return value.expand(x.shape[-2], -1).repeat(x.shape[-3], 1)

    def check_signal(self, x: Tensor) -> None:
        super().check_signal(x)
        if x.dim() < 3:
            raise SignalError(
                f"PCEN takes (..., channels, bands, frames), got {tuple(x.shape)}", where="PCEN"
            )
        if self.bands not in (None, x.shape[-2]):
            raise SignalError(f"numbers for {self.bands} bands, got {x.shape[-2]}", where="PCEN")

    @property
    def settle_samples(self) -> int:
        assert self.sample_rate_hz is not None
        longest = float(self.time_constant().detach().max())
        return min(decay_samples(longest, self.sample_rate_hz), 2**31 - 1)

    def extra_repr(self) -> str:
        return (
            f"gain={show(self.gain())}, bias={show(self.bias())}, power={show(self.power())}, "
            f"time_constant_s={show(self.time_constant())}, hop={self.hop}, eps={self.eps:g}, "
            f"initial={self.initial}, sample_rate_hz={self.sample_rate_hz:g}"
        )


def _rows(x: Tensor) -> Tensor:
    """Channels and bands as one axis: (..., channels * bands, frames)."""
    return x.reshape(*x.shape[:-3], x.shape[-3] * x.shape[-2], x.shape[-1])


def _column(value: Tensor) -> Tensor:
    return value.reshape(-1, 1)
