"""Delays, fixed and learnable."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, positive, show, whole, zeros
from microddsp.dsp.parameters import Between, Number
from microddsp.errors import ParameterError, nearest

INTERPOLATIONS = ("linear", "lagrange")


class Delay(Block):
    """The signal some whole samples later, zeros before.

    Args:
        samples: At least 1, or
        delay_s: seconds, rounded to samples of
        sample_rate_hz: samples per second.

    Raises:
        ParameterError: Not just one of the two, or less than one sample.
    """

    def __init__(
        self,
        samples: int | None = None,
        *,
        delay_s: float | None = None,
        sample_rate_hz: float | None = None,
    ) -> None:
        super().__init__()
        if (samples is None) == (delay_s is None):
            raise ParameterError("give samples or delay_s", where="Delay")
        if sample_rate_hz is not None:
            self.sample_rate_hz = float(positive("sample_rate_hz", sample_rate_hz, "Delay"))
        if delay_s is not None:
            if self.sample_rate_hz is None:
                raise ParameterError("delay_s needs sample_rate_hz", where="Delay")
            samples = round(float(positive("delay_s", delay_s, "Delay")) * self.sample_rate_hz)
        assert samples is not None
        self.samples = whole("samples", samples, "Delay")

    def initial_state(self, x: Tensor) -> State:
        return {"line": zeros(x, self.samples)}

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, line = relax_ops.delay(x, self.samples, state["line"])
        return y, {"line": line}

    @property
    def settle_samples(self) -> int:
        return self.samples

    def extra_repr(self) -> str:
        return f"samples={self.samples}"


class LearnableDelay(Block):
    """A delay that is learned, between samples too: its gradient is the slope of the signal.

    It moves along the slope of the signal, so it finds a delay that is wrong by less than about a
    quarter of a period; smooth the signal first to look further.

    Args:
        delay_s: Start value in seconds; one or one per channel.
        max_s: What the delay stays below; the device keeps that much of the past.
        sample_rate_hz: Samples per second.
        interpolation: "linear", or "lagrange" (third order: flatter up to a quarter of the sample
            rate; at least one sample of delay).

    Raises:
        ParameterError: A value outside its range.

    Source: T. I. Laakso et al., "Splitting the unit delay", IEEE Signal Processing Magazine, 1996.
    """

    def __init__(
        self,
        delay_s: Number,
        *,
        max_s: float,
        sample_rate_hz: float,
        interpolation: str = "linear",
    ) -> None:
        super().__init__()
        where = "LearnableDelay"
        self.sample_rate_hz = float(positive("sample_rate_hz", sample_rate_hz, where))
        if interpolation not in INTERPOLATIONS:
            raise ParameterError(
                f"unknown interpolation {interpolation!r}",
                where=where,
                hint=nearest(interpolation, INTERPOLATIONS),
            )
        self.interpolation = interpolation
        self.max_s = float(positive("max_s", max_s, where))
        least = 0.0 if interpolation == "linear" else 1 / self.sample_rate_hz
        if self.max_s <= least:
            raise ParameterError(f"max_s must be more than {least:g} s", where=where)
        self.delay = Between("delay_s", delay_s, least, self.max_s, where, unit=" s")

    @property
    def delay_s(self) -> Tensor:
        """The delay in seconds."""
        return self.delay()

    @property
    def _length(self) -> int:
        """Samples of the past that any delay below the largest can ask for."""
        assert self.sample_rate_hz is not None
        return math.ceil(self.max_s * self.sample_rate_hz) + 2

    def design(self) -> dict[str, Tensor]:
        assert self.sample_rate_hz is not None
        samples = self.delay_s * self.sample_rate_hz
        order = 1 if self.interpolation == "linear" else 3
        # the middle of the taps around the delay, where Lagrange's polynomial is best
        newest = torch.floor(samples.detach()) - order // 2
        part = samples - newest
        taps = []
        for k in range(order + 1):
            tap = torch.ones_like(part)
            for m in range(order + 1):
                if m != k:
                    tap = tap * (part - m) / (k - m)
            taps.append(tap)
        return {
            "taps": torch.stack(taps, -1),
            "offsets": newest.to(torch.int32).reshape(-1),
        }

    def initial_state(self, x: Tensor) -> State:
        return {"line": zeros(x, self._length)}

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        taps, offsets = self.designed("taps").to(x), self.designed("offsets").to(x.device)
        y, line = relax_ops.tapped_delay(x, taps, offsets, state["line"])
        return y, {"line": line}

    @property
    def settle_samples(self) -> int:
        return self._length

    def extra_repr(self) -> str:
        return (
            f"delay_s={show(self.delay_s)}, max_s={self.max_s:g}, "
            f"sample_rate_hz={self.sample_rate_hz:g}, interpolation={self.interpolation}"
        )
