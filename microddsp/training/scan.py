"""Where to start: gradients find the way from nearby, a scan finds what is near.

A count says nothing about where in the spectrum events are, and a threshold that is never crossed
has no gradient. Both are cheap to try out: a band is heard once, then all thresholds are counted.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from microddsp.dsp.event_counter import EventCounter
from microddsp.dsp.input_rate import input_rate_hz
from microddsp.errors import ParameterError
from microddsp.training.margins import MARGIN, endless_weights, hear, weights
from microddsp.training.windows import Windows

# Levels lie between this share of all samples and the loudest.
_QUIET = 0.5
_FAINT = 1e-3


@dataclass(frozen=True, slots=True)
class Scanned:
    """A start with its best thresholds, its mean count error, and `score`: the error averaged over
    the thresholds around (see `margins`), by which starts are sorted."""

    pipeline: torch.nn.Module
    error: float
    score: float


def scan(
    candidates: Iterable[torch.nn.Module],
    windows: Windows,
    *,
    levels: int = 24,
    hystereses: Sequence[float] = (),
    margin: float = MARGIN,
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
        margin: Thresholds this share away weigh 1/e in the score: one that only just fits is no
            good start. Of the level, or of a fifth of its range if the signal may be negative.
        keep: How many come back, ready for `fit`.

    Raises:
        ParameterError: No candidate, blocks whose sample rates are at odds, or numbers out of
            range.
        SignalError: No windows, nothing known, or signals that are not finite.
    """
    if levels < 1 or keep < 1:
        raise ParameterError(f"levels is {levels}, keep is {keep}; at least 1 each")
    if not 0.0 < margin < float("inf"):
        raise ParameterError(f"margin is a positive share, got {margin}")
    if not all(0.0 < share < 1.0 for share in hystereses):
        raise ParameterError(f"hystereses are in (0, 1), got {tuple(hystereses)}")
    windows.check()
    found = [_best(candidate, windows, levels, hystereses, margin) for candidate in candidates]
    if not found:
        raise ParameterError("give at least one candidate")
    return sorted(found, key=lambda start: start.score)[:keep]


@torch.no_grad()
def _best(
    candidate: torch.nn.Module,
    windows: Windows,
    levels: int,
    hystereses: Sequence[float],
    margin: float,
) -> Scanned:
    pipeline = copy.deepcopy(candidate)
    input_rate_hz(pipeline)  # refuses rates at odds
    heard = hear(pipeline, windows)
    counter = heard.counter
    tried = _levels(heard.signal, levels)
    shares, sizes = _gaps(counter, tried, hystereses)
    errors = torch.tensor(
        [
            [
                heard.error(torch.stack([level, level - share * size]))
                for level, size in zip(tried, sizes, strict=True)
            ]
            for share in shares
        ],
        dtype=torch.float64,
    )
    places = tried.log() if float(tried[0]) > 0 else tried / sizes
    scores = weights(shares, margin) @ errors @ endless_weights(places, margin).T
    scores = scores[:, :-1]  # at the maximum nothing is counted
    row, place = divmod(int(scores.argmin()), scores.shape[-1])
    counter.level.fill_(float(tried[place]))
    counter.gap.raw.fill_(float(torch.log((shares[row] * sizes[place]).clamp(min=1e-12))))
    return Scanned(pipeline, float(errors[row, place]), float(scores[row, place]))


def _gaps(
    counter: EventCounter, tried: Tensor, hystereses: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Distances of the release threshold below each level: shares (places,) of sizes (levels,)."""
    if float(tried[0]) > 0:
        gap = float(counter.gap().max())
        own = gap / max(float(counter.threshold.max()), gap)  # of the level
        sizes = tried
    else:
        own, sizes = 0.5, torch.full_like(tried, 0.2 * float(tried[-1] - tried[0]))
    shares = sorted({own, *(1 - share for share in hystereses)})
    return torch.tensor(shares, dtype=torch.float64), sizes


def _levels(signal: Tensor, count: int) -> Tensor:
    """(count + 1,) in equal steps, the maximum last."""
    thinned = signal.flatten()[:: max(1, signal.numel() // 200_000)].double()
    low, high = torch.quantile(thinned, _QUIET), signal.max().double()
    if float(signal.min()) >= 0 and float(high) > 0:  # an envelope; between events it may be zero
        low = low.clamp(min=_FAINT * float(high))
    if float(low) > 0:
        return torch.logspace(float(low.log10()), float(high.log10()), count + 1).double()
    return torch.linspace(float(low), float(high), count + 1).double()
