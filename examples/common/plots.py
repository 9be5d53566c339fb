"""Plots of signals over each other, with what was counted and what there is to count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch

from microddsp import dsp
from microddsp.training import counting

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def stack(rows: int, height: float = 7) -> tuple[Any, Any]:
    """A figure of plots over each other on one axis of time."""
    return plt.subplots(rows, 1, figsize=(10, height), sharex=True, layout="constrained")


def event_samples(counter: dsp.EventCounter, signal: torch.Tensor) -> np.ndarray:
    """The samples at which a counter fires in (1, samples)."""
    with torch.no_grad(), counting(counter):
        return torch.nonzero(counter(signal)[0])[:, 0].numpy()


def draw_thresholds(axis: Any, counter: dsp.EventCounter, place: str = "lower right") -> None:
    """Both thresholds of a counter, and the legend."""
    axis.axhline(counter.threshold.item(), color="tab:red", label="threshold")
    axis.axhline(counter.release_threshold.item(), color="tab:orange", label="release")
    axis.legend(loc=place)


def draw_events(
    axes: Sequence[Any],
    t: np.ndarray,
    shown: slice,
    events: np.ndarray,
    reference: np.ndarray,
    *,
    others: np.ndarray | None = None,
    colours: Sequence[str] = (),
    alpha: float = 0.6,
) -> None:
    """Lines where events were counted, triangles where they are, crosses at other events.

    `t` gives the time of a sample, `shown` the samples in the plot; colours are of the lines, one
    an axis, green unless given.
    """
    for number, axis in enumerate(axes):
        low, high = axis.get_ylim()
        colour = colours[number] if colours else "tab:green"
        axis.vlines(t[_within(events, shown)], low, high, color=colour, linewidth=0.8, alpha=alpha)
        there = t[_within(reference, shown)]
        axis.plot(there, [high] * len(there), "kv", markersize=5, clip_on=False)
        if others is not None:
            there = t[_within(others, shown)]
            axis.plot(there, [high] * len(there), "x", color="tab:red", clip_on=False)
        axis.set_ylim(low, high)


def _within(samples: np.ndarray, shown: slice) -> np.ndarray:
    samples = np.asarray(samples, dtype=int)
    return samples[(samples >= shown.start) & (samples < shown.stop)]


def side_by_side(columns: int) -> tuple[Any, Any]:
    """A figure of plots that have nothing in common."""
    return plt.subplots(1, columns, figsize=(11, 4.5), layout="constrained")


def draw_trade(axis: Any, kinds: Mapping[str, Sequence[tuple[float, float, str]]]) -> None:
    """Points (cost, error, label) of several kinds."""
    for i, ((kind, points), marker) in enumerate(zip(kinds.items(), "o*s^Dv", strict=False)):
        axis.plot([p[0] for p in points], [p[1] for p in points], marker, label=kind, markersize=8)
        for cost, error, label in points:
            place = (5, -12 if i % 2 else 5)  # names of neighbours of another kind stay apart
            axis.annotate(label, (cost, error), place, textcoords="offset points", fontsize=8)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()
