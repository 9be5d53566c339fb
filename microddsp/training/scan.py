"""Where to start: gradients find the way from nearby, a scan finds what is near.

A count says nothing about where in the spectrum events are, and a threshold that is never crossed
has no gradient. Both are cheap to try out: a band is heard once, then all thresholds are counted.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.event_counter import EventCounter
from microddsp.dsp.input_rate import input_rate_hz
from microddsp.errors import ParameterError
from microddsp.training.counts import find_counter
from microddsp.training.windows import Windows

# Neighbours on each side over which the error at a level is averaged: a level that only just
# fits is no good start. Of levels that are equal by that, the one with the best wide surroundings.
_MARGIN, _WIDE = 2, 6
_WIDE_SHARE = 0.1
# Levels lie between this share of all samples and the loudest.
_QUIET = 0.5
_FAINT = 1e-3


@dataclass(frozen=True, slots=True)
class Scanned:
    """A start with its best thresholds, its mean count error around them, and `score`: the error
    with a share of that of the wide surroundings, by which starts are sorted."""

    pipeline: torch.nn.Module
    error: float
    score: float


def scan(
    candidates: Iterable[torch.nn.Module],
    windows: Windows,
    *,
    levels: int = 24,
    hystereses: Sequence[float] = (),
    keep: int = 3,
) -> list[Scanned]:
    """Try pipelines with all thresholds on windows with counts; the best first.

    Thresholds are tried in equal steps (by ratio for a signal above zero) between the median and
    the maximum of what the counter hears. The release threshold keeps its place below, and is
    tried at the places of `hystereses`.

    Args:
        candidates: Pipelines with one `EventCounter`, such as bands all over the spectrum; copied.
        windows: With counts; every candidate hears all of them once.
        levels: Thresholds tried.
        hystereses: Release thresholds tried, as shares of the threshold; for a signal that may be
            negative the distance is that share less than all, of a fifth of its range.
        keep: How many come back, ready for `fit`.

    Raises:
        ParameterError: No candidate, blocks whose sample rates are at odds, or numbers out of
            range.
        SignalError: No windows, nothing known, or signals that are not finite.
    """
    if levels < 1 or keep < 1:
        raise ParameterError(f"levels is {levels}, keep is {keep}; at least 1 each")
    if not all(0.0 < share < 1.0 for share in hystereses):
        raise ParameterError(f"hystereses are in (0, 1), got {tuple(hystereses)}")
    windows.check()
    found = [_best(candidate, windows, levels, hystereses) for candidate in candidates]
    if not found:
        raise ParameterError("give at least one candidate")
    return sorted(found, key=lambda start: start.score)[:keep]


@torch.no_grad()
def _best(
    candidate: torch.nn.Module, windows: Windows, levels: int, hystereses: Sequence[float]
) -> Scanned:
    pipeline = copy.deepcopy(candidate)
    input_rate_hz(pipeline)  # refuses rates at odds
    counter = find_counter(pipeline)
    heard = _heard(pipeline, counter, windows.signals)
    tried = _levels(heard, levels)
    gaps = _gaps(counter, tried, hystereses)
    errors = torch.stack(
        [
            torch.stack(
                [
                    _error(counter, heard, windows, level, gap)
                    for level, gap in zip(tried, row, strict=True)
                ]
            )
            for row in gaps
        ]
    )
    around = _around(errors, _MARGIN)
    scores = around + _WIDE_SHARE * _around(errors, _WIDE)
    row, place = divmod(int(scores.argmin()), len(tried))
    counter.level.fill_(float(tried[place]))
    counter.gap.raw.fill_(float(torch.log(gaps[row, place].clamp(min=1e-12))))
    return Scanned(pipeline, float(around[row, place]), float(scores[row, place]))


def _gaps(counter: EventCounter, tried: Tensor, hystereses: Sequence[float]) -> Tensor:
    """(places, levels): distances of the release threshold below each level."""
    if float(tried[0]) > 0:
        gap = float(counter.gap().max())
        own = gap / max(float(counter.threshold.max()), gap)  # of the level
        sizes = tried
    else:
        own, sizes = 0.5, torch.full_like(tried, 0.2 * float(tried[-1] - tried[0]))
    shares = sorted({own, *(1 - share for share in hystereses)})
    return torch.stack([share * sizes for share in shares])


def _around(errors: Tensor, margin: int) -> Tensor:
    """Errors averaged over neighbouring levels, and over the places next to theirs."""
    spread = (int(len(errors) > 1), margin)
    size = (2 * spread[0] + 1, 2 * margin + 1)
    return torch.nn.functional.avg_pool2d(errors[None], size, 1, spread, count_include_pad=False)[0]


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
    if float(heard.min()) >= 0 and float(high) > 0:  # an envelope; between events it may be zero
        low = low.clamp(min=_FAINT * float(high))
    if float(low) > 0:
        return torch.logspace(float(low.log10()), float(high.log10()), count + 1)[:-1].double()
    return torch.linspace(float(low), float(high), count + 1)[:-1].double()


def _error(
    counter: EventCounter, heard: Tensor, windows: Windows, level: Tensor, gap: Tensor
) -> Tensor:
    thresholds = torch.stack([level, level - gap]).to(heard)
    state = heard.new_zeros((*heard.shape[:-1], 3), dtype=torch.int32)
    count, events, _ = relax_ops.event_counter(heard, thresholds, state, counter.refractory_samples)
    if bool(windows.known.all()):
        counted = count.sum((-2, -1))
    else:
        counted = (events.sum(-2) * windows.known).sum(-1)
    return (counted - windows.counts).abs().mean()
