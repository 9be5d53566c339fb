"""Event counter: exact on the device, trainable from counts alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, positive, show, zeros
from microddsp.dsp.filter import Positive
from microddsp.dsp.streaming import is_streaming
from microddsp.errors import ParameterError

# Steepness of the soft threshold, in units of the distance between the two thresholds.
_SLOPE = 4.0


class EventCounter(Block):
    """Count how often a signal rises above a threshold, with hysteresis and refractory time.

    It fires when armed and above `threshold`, and arms when below the release threshold; after an
    event none can follow for `refractory_s`. It starts unarmed: a signal that begins high is
    not an event. The same integer machine runs in training, on the host and on the device.

    Offline it gives the count of the whole signal, float (..., channels, 1), or a 0/1 signal of
    events with `per_sample`. Streaming it gives the count since the start, int32.

    In training the forward value is exact and gradients pass straight through a soft threshold;
    inside `counter.density()` the output is a smooth density of events instead, whose sum
    approximates the count: train with it first, it sees further.

    Args:
        threshold: In units of the input; one or one per channel.
        hysteresis: release threshold / threshold, for positive thresholds, in (0, 1).
        release_threshold: Absolute, below `threshold`; instead of `hysteresis`.
        refractory_s: Seconds after an event in which none is counted; not learned.
        sample_rate_hz: Samples per second.
        per_sample: Give a signal of events instead of a count.

    Raises:
        ParameterError: A value outside its range.
    """

    def __init__(
        self,
        threshold: float | Sequence[float],
        hysteresis: float = 0.5,
        *,
        release_threshold: float | Sequence[float] | None = None,
        refractory_s: float = 0.0,
        sample_rate_hz: float,
        per_sample: bool = False,
    ) -> None:
        super().__init__()
        where = "EventCounter"
        positive("sample_rate_hz", sample_rate_hz, where)
        high = torch.as_tensor(threshold, dtype=torch.float64)
        if high.dim() > 1 or not bool(torch.isfinite(high).all()):
            raise ParameterError(
                f"threshold is one finite number or one per channel, got {threshold}", where=where
            )
        if release_threshold is None:
            if not bool((high > 0).all()):
                raise ParameterError(
                    "hysteresis needs a positive threshold",
                    where=where,
                    hint="give release_threshold for a threshold at or below zero",
                )
            if not 0.0 < hysteresis < 1.0:
                raise ParameterError(f"hysteresis must be in (0, 1), got {hysteresis}", where=where)
            low = high * hysteresis
        else:
            low = torch.as_tensor(release_threshold, dtype=torch.float64)
        if not bool(torch.isfinite(low).all()) or not bool((low < high).all()):
            raise ParameterError(
                f"release_threshold must be below threshold {threshold}, got {release_threshold}",
                where=where,
            )
        if not 0.0 <= refractory_s * sample_rate_hz <= 2**30:
            raise ParameterError(
                f"refractory_s must not be negative or huge, got {refractory_s}", where=where
            )
        self.level = torch.nn.Parameter(high.float())
        self.gap = Positive(high - low)
        self.sample_rate_hz = float(sample_rate_hz)
        self.refractory_s = float(refractory_s)
        self.per_sample = per_sample
        # events per sample and distance above the threshold; only the density uses it
        self.rate = Positive(torch.tensor(1.0 / (1 + self.refractory_samples)).double())
        self._density = False

    @property
    def refractory_samples(self) -> int:
        """Samples after an event in which none can follow."""
        assert self.sample_rate_hz is not None
        return round(self.refractory_s * self.sample_rate_hz)

    @property
    def threshold(self) -> Tensor:
        """The level above which an armed counter fires."""
        return self.level.double()

    @property
    def release_threshold(self) -> Tensor:
        """The level below which the counter arms; always below the threshold."""
        return self.level.double() - self.gap()

    @contextmanager
    def density(self) -> Iterator[None]:
        """Inside, training sees a smooth density of events instead of the exact counter."""
        before, self._density = self._density, True
        try:
            yield
        finally:
            self._density = before

    def design(self) -> dict[str, Tensor]:
        return {"thresholds": torch.stack([self.threshold, self.release_threshold], -1)}

    def initial_state(self, x: Tensor) -> State:
        return {"machine": zeros(x, 3, dtype=torch.int32)}

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        thresholds = self.designed("thresholds").to(x)
        count, events, machine = relax_ops.event_counter(
            x, thresholds, state["machine"], self.refractory_samples
        )
        if is_streaming(self):
            return (events if self.per_sample else count), {"machine": machine}
        if self._density:
            events = self._soft_density(x)
        elif torch.is_grad_enabled():
            soft = self._soft_crossings(x)
            events = events + (soft - soft.detach())
        answer = events if self.per_sample else events.sum(-1, keepdim=True)
        return answer, {"machine": machine}

    def _above(self, x: Tensor) -> Tensor:
        """Distance above the threshold, in units of the gap between the thresholds."""
        level, gap = self.level.to(x), self.gap().to(x)
        if level.dim():
            level, gap = level[:, None], gap[:, None]
        return (x - level) / gap

    def _soft_crossings(self, x: Tensor) -> Tensor:
        """Rises of a soft threshold: what the gradient of the exact events is taken from."""
        s = torch.sigmoid(_SLOPE * self._above(x))
        return torch.relu(torch.diff(s, dim=-1, prepend=s[..., :1]))

    def _soft_density(self, x: Tensor) -> Tensor:
        """Events per sample, smooth in everything."""
        above = torch.nn.functional.softplus(_SLOPE * self._above(x)) / _SLOPE
        return above * self.rate().to(x)

    def extra_repr(self) -> str:
        return (
            f"threshold={show(self.threshold)}, release_threshold={show(self.release_threshold)}, "
            f"refractory_s={self.refractory_s:g}, sample_rate_hz={self.sample_rate_hz:g}, "
            f"per_sample={self.per_sample}"
        )
