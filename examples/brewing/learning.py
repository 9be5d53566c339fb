"""Training: many windows rendered with varied sounds, heard through the bank once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from common.counting import joined
from data import RATE, WINDOW_S, Recording, Sounds, Variety, record
from pipeline import HOP, bank, head, with_bank

from microddsp.training import Windows, cut_windows, fit

SETTLE_S = 0.5
# Every recording has its own level of ambience, so that many short ones teach more than a long one.
SHORT_S = 60.0
VARIETY = Variety(speed=0.25, tilt_db=9.0, level_db=2.0, made=0.5)


@dataclass(frozen=True)
class Effort:
    """Recordings over each ambience, networks that start at random, steps of both phases."""

    recordings: int
    starts: int
    density_steps: int
    exact_steps: int


FULL = Effort(recordings=15, starts=2, density_steps=700, exact_steps=1100)
QUICK = Effort(recordings=4, starts=1, density_steps=400, exact_steps=400)


def train(
    sounds: Sounds, effort: Effort, report: Callable[[str], None] | None = None
) -> tuple[torch.nn.Sequential, Windows]:
    """A pipeline that has learned to count from counts, and the windows it learned from.

    The bank is not learned: it hears all windows once, and the steps are of 100 levels a second.
    """
    seen = cut(
        recording
        for seed in range(effort.recordings)
        for recording in record(sounds, SHORT_S, 1000 * seed + 3, VARIETY)
    )
    front = bank(RATE)
    trained = fit(
        [head(RATE / HOP) for _ in range(effort.starts)],
        behind(front, seen),
        density_steps=effort.density_steps,
        exact_steps=effort.exact_steps,
        learning_rate=0.015,
        batch=32,
        check_every=200,
        report=report,
    ).pipeline
    return with_bank(front, trained).eval(), seen


def cut(recordings: Iterable[Recording]) -> Windows:
    """Windows of 6 s with a count each."""
    return joined(
        cut_windows(
            torch.tensor(recording.samples[None]),
            torch.tensor(recording.plops),
            length_s=WINDOW_S,
            settle_s=SETTLE_S,
            sample_rate_hz=RATE,
        )
        for recording in recordings
    )


def behind(front: torch.nn.Module, windows: Windows) -> Windows:
    """What comes out of the bank in each window."""
    with torch.no_grad():
        levels = torch.cat([front(part) for part in windows.signals.split(32)])
    return Windows(levels, windows.known[:, ::HOP], windows.counts)
