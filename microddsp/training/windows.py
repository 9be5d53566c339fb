"""Recordings cut into windows with a count each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from microddsp.errors import ParameterError, SignalError


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of one or more recordings, each with a lead-in that is heard but not counted.

    signals: (windows, channels, lead-in + length); known: the same without channels, True where
    events count; counts: (windows,), events in the known part.
    """

    signals: Tensor
    known: Tensor
    counts: Tensor

    def __len__(self) -> int:
        return int(self.counts.shape[0])

    def __post_init__(self) -> None:
        for what in ("signals", "known", "counts"):
            value = getattr(self, what)
            if not isinstance(value, Tensor):
                raise SignalError(f"{what} are a torch tensor, not {type(value).__name__}")
        if self.signals.dim() != 3:
            raise SignalError(
                f"signals are (windows, channels, samples), got {tuple(self.signals.shape)}"
            )
        n, _, samples = self.signals.shape
        if tuple(self.known.shape) != (n, samples) or tuple(self.counts.shape) != (n,):
            raise SignalError(
                f"{n} windows of {samples} samples need known {(n, samples)} and counts {(n,)}, "
                f"got {tuple(self.known.shape)} and {tuple(self.counts.shape)}"
            )
        if self.known.dtype != torch.bool:
            raise SignalError(f"known is bool, got {self.known.dtype}")
        if not bool((torch.isfinite(self.counts) & (self.counts >= 0)).all()):
            raise SignalError("counts are finite numbers that are not negative")

    def check(self) -> None:
        """Whether anything can be learned from them.

        Raises:
            SignalError: No windows, nothing known, or signals that are not finite.
        """
        if not len(self) or not bool(torch.isfinite(self.signals).all()):
            raise SignalError("training needs windows of finite signals")
        if not bool(self.known.any()):
            raise SignalError("no sample of any window is known: nothing can be counted")

    def select(self, index: Tensor) -> Windows:
        """Some of the windows."""
        return Windows(self.signals[index], self.known[index], self.counts[index])


def cut_windows(
    recording: Tensor,
    events: Sequence[int] | Tensor,
    *,
    length_s: float,
    settle_s: float,
    sample_rate_hz: float,
    hop_s: float | None = None,
    known: Tensor | None = None,
) -> Windows:
    """Cut a recording (channels, samples) into windows and count the events in each.

    Args:
        recording: The signal; what fills no whole window at its end is left out.
        events: Sample numbers of the events, integers; only their number per window is used.
        length_s: Length of a window in seconds.
        settle_s: Lead-in before each window in which filters settle. At the start of the
            recording the first sample is repeated.
        sample_rate_hz: Samples per second.
        hop_s: From one window to the next; less than `length_s` gives windows that overlap.
        known: (samples,) bool, False where nobody knows what happened.

    Raises:
        SignalError: The recording is empty, too short, or not (channels, samples); events that
            are no samples of it; `known` of another length.
        ParameterError: A time that is not positive.
    """
    if recording.dim() != 2 or not recording.numel():
        raise SignalError(f"a recording is (channels, samples), got {tuple(recording.shape)}")
    if not all(math.isfinite(v) for v in (length_s, settle_s, sample_rate_hz, hop_s or 0.0)):
        raise ParameterError("times and the sample rate must be finite")
    length, lead = round(length_s * sample_rate_hz), math.ceil(settle_s * sample_rate_hz)
    hop = length if hop_s is None else round(hop_s * sample_rate_hz)
    if length < 1 or lead < 0 or hop < 1:
        raise ParameterError(f"length_s is {length_s}, settle_s is {settle_s}, hop_s is {hop_s}")
    samples = recording.shape[-1]
    if samples < length:
        raise SignalError(f"{samples} samples are less than one window of {length}")
    if known is None:
        known = torch.ones(samples, dtype=torch.bool)
    if known.dtype != torch.bool or tuple(known.shape) != (samples,):
        raise SignalError(f"known is bool ({samples},), got {known.dtype} {tuple(known.shape)}")
    happened = _per_sample(events, samples)
    before = recording[:, :1].expand(-1, lead)
    padded = torch.cat([before, recording], -1)
    heard = torch.cat([torch.zeros(lead, dtype=torch.bool), known])
    signals, masks, counts = [], [], []
    for start in range(0, samples - length + 1, hop):
        signals.append(padded[:, start : start + lead + length])
        mask = heard[start : start + lead + length].clone()
        mask[:lead] = False
        masks.append(mask)
        inside = happened[start : start + length] * known[start : start + length]
        counts.append(inside.sum())
    return Windows(torch.stack(signals), torch.stack(masks), torch.stack(counts))


def _per_sample(events: Sequence[int] | Tensor, samples: int) -> Tensor:
    """How many events each sample has."""
    places = torch.as_tensor(events).flatten()
    if places.numel() and (places.is_floating_point() or places.dtype == torch.bool):
        raise SignalError(
            f"events are numbers of samples, got {places.dtype}",
            hint="seconds times sample_rate_hz, rounded",
        )
    outside = places[(places < 0) | (places >= samples)]
    if outside.numel():
        raise SignalError(f"event {int(outside[0])} is none of the {samples} samples")
    return torch.bincount(places.long(), minlength=samples).float()
