"""Counts as labels: what a pipeline counts in a window, and how wrong that is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from microddsp.dsp.event_counter import EventCounter
from microddsp.errors import ParameterError, SignalError
from microddsp.training.windows import Windows


def find_counter(pipeline: torch.nn.Module) -> EventCounter:
    """The one event counter of a pipeline.

    Raises:
        ParameterError: There is none, or more than one.
    """
    found = [inner for inner in pipeline.modules() if isinstance(inner, EventCounter)]
    if len(found) != 1:
        raise ParameterError(f"one EventCounter is expected in the pipeline, found {len(found)}")
    return found[0]


@contextmanager
def counting(pipeline: torch.nn.Module) -> Iterator[EventCounter]:
    """Inside, the pipeline gives a signal of events, so that parts of it can be left out."""
    counter = find_counter(pipeline)
    before, counter.per_sample = counter.per_sample, True
    try:
        yield counter
    finally:
        counter.per_sample = before


def window_counts(pipeline: torch.nn.Module, windows: Windows) -> Tensor:
    """(windows,): events in the known part of each window; differentiable in training.

    A pipeline may lower the sample rate: each event then belongs to the first of the samples that
    one of the lower rate stands for, as `Decimate` has it.

    Raises:
        SignalError: The windows are no whole number of the pipeline's output samples.
    """
    with counting(pipeline):
        events = pipeline(windows.signals)
    return (events.sum(-2) * known_samples(windows, events.shape[-1])).sum(-1)


def known_samples(windows: Windows, kept: int) -> Tensor:
    """(windows, kept): what is known of windows of which a pipeline gives `kept` samples.

    Raises:
        SignalError: The windows are no whole number of those.
    """
    samples = windows.known.shape[-1]
    if not kept or samples % kept:
        raise SignalError(
            f"windows of {samples} samples gave {kept}: what is known of them does not fit",
            hint="choose length_s and settle_s so that the factor divides their sum",
        )
    return windows.known[..., :: samples // kept]


def count_loss(counted: Tensor, counts: Tensor, known: Tensor | None = None) -> Tensor:
    """Mean error of counts, quadratic below one event: large misses do not rule the training.

    `known` is bool like `counts`: False where nobody counted.

    Raises:
        SignalError: Shapes that differ.
    """
    if counted.shape != counts.shape or (known is not None and known.shape != counts.shape):
        raise SignalError(f"{tuple(counted.shape)} counted do not fit {tuple(counts.shape)} counts")
    misses = torch.nn.functional.smooth_l1_loss(counted, counts.to(counted), reduction="none")
    if known is None:
        return misses.mean()
    return torch.where(known, misses, 0.0).sum() / known.sum().clamp(min=1)
