"""Where to start: gradients find the way from nearby, a scan finds what is near.

A count says nothing about where in the spectrum events are, and a threshold that is never crossed
has no gradient. Both are cheap to try out: a band is heard once, then all thresholds are counted.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.event_counter import EventCounter
from microddsp.errors import ParameterError, SignalError
from microddsp.training.counts import find_counter
from microddsp.training.windows import Windows

# Neighbours on each side over which the error at a level is averaged: a level that only just
# fits is no good start.
_MARGIN = 2
# Levels lie between this share of all samples and the loudest.
_QUIET = 0.5


@dataclass(frozen=True, slots=True)
class Scanned:
    """A start with its best threshold, and its mean count error around that threshold."""

    pipeline: torch.nn.Module
    error: float


def scan(
    candidates: Iterable[torch.nn.Module],
    windows: Windows,
    *,
    levels: int = 24,
    keep: int = 3,
) -> list[Scanned]:
    """Try pipelines with all thresholds on windows with counts; the best first.

    Thresholds are tried in equal steps (by ratio for a signal above zero) between the median and
    the maximum of what the counter hears; the release threshold keeps its place below.

    Args:
        candidates: Pipelines with one `EventCounter`, such as bands all over the spectrum; copied.
        windows: With counts; every candidate hears all of them once.
        levels: Thresholds tried.
        keep: How many come back, ready for `fit`.

    Raises:
        ParameterError: No candidate, or numbers below 1.
        SignalError: No windows, or signals that are not finite.
    """
    if levels < 1 or keep < 1:
        raise ParameterError(f"levels is {levels}, keep is {keep}; at least 1 each")
    if not len(windows) or not bool(torch.isfinite(windows.signals).all()):
        raise SignalError("a scan needs windows of finite signals")
    found = [_best(candidate, windows, levels) for candidate in candidates]
    if not found:
        raise ParameterError("give at least one candidate")
    return sorted(found, key=lambda start: start.error)[:keep]


@torch.no_grad()
def _best(candidate: torch.nn.Module, windows: Windows, levels: int) -> Scanned:
    pipeline = copy.deepcopy(candidate)
    counter = find_counter(pipeline)
    heard = _heard(pipeline, counter, windows.signals)
    tried = _levels(heard, levels)
    gap = float(counter.gap().max())
    share = gap / max(float(counter.threshold.max()), gap)  # of the level, if all is above zero
    spread = float(tried[-1] - tried[0])
    gaps = tried * share if float(tried[0]) > 0 else torch.full_like(tried, spread * 0.1)
    errors = torch.stack(
        [
            _error(counter, heard, windows, level, gap)
            for level, gap in zip(tried, gaps, strict=True)
        ]
    )
    around = torch.nn.functional.avg_pool1d(
        errors[None], 2 * _MARGIN + 1, 1, _MARGIN, count_include_pad=False
    )[0]
    place = int(around.argmin())
    counter.level.fill_(float(tried[place]))
    counter.gap.raw.fill_(float(torch.log(gaps[place].clamp(min=1e-12))))
    return Scanned(pipeline, float(around[place]))


def _heard(pipeline: torch.nn.Module, counter: EventCounter, signals: Tensor) -> Tensor:
    """The signal that goes into the counter."""
    caught: list[Tensor] = []

    def catch(_: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        caught.append(arguments[0])

    hook = counter.register_forward_pre_hook(catch)
    try:
        pipeline(signals)
    finally:
        hook.remove()
    return caught[-1]


def _levels(heard: Tensor, count: int) -> Tensor:
    thinned = heard.flatten()[:: max(1, heard.numel() // 200_000)].double()
    low, high = torch.quantile(thinned, _QUIET), heard.max().double()
    if float(low) > 0:
        return torch.logspace(float(low.log10()), float(high.log10()), count + 1)[:-1].double()
    return torch.linspace(float(low), float(high), count + 1)[:-1].double()


def _error(
    counter: EventCounter, heard: Tensor, windows: Windows, level: Tensor, gap: Tensor
) -> Tensor:
    thresholds = torch.stack([level, level - gap]).to(heard)
    state = heard.new_zeros((*heard.shape[:-1], 3), dtype=torch.int32)
    _, events, _ = relax_ops.event_counter(heard, thresholds, state, counter.refractory_samples)
    counted = (events.sum(-2) * windows.known).sum(-1)
    return (counted - windows.counts).abs().mean()
