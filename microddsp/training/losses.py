"""Losses between a signal and its target; what nobody knows is left out by a mask.

Signals are (..., channels, samples). `known` is (..., samples), without channels, True where the
target is to be believed; None: everywhere. Values in unknown places may be anything, NaN too.
Every loss is the mean over what is known, and zero if nothing is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from microddsp.errors import ParameterError, SignalError

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def l1(output: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
    """Mean absolute difference.

    Raises:
        SignalError: Shapes that differ, here and in all losses below.
    """
    return _mean_of(torch.abs, output, target, known)


def l2(output: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
    """Mean squared difference."""
    return _mean_of(torch.square, output, target, known)


def log_cosh(output: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
    """Mean log cosh of the difference: square when small, absolute when large, smooth between."""

    def rule(d: Tensor) -> Tensor:
        size = d.abs()  # log cosh d = |d| + log(1 + exp(-2|d|)) - log 2 never overflows
        return size + torch.nn.functional.softplus(-2 * size) - math.log(2.0)

    return _mean_of(rule, output, target, known)


def envelope(
    output: Tensor,
    target: Tensor,
    known: Tensor | None = None,
    *,
    window_s: float,
    sample_rate_hz: float,
) -> Tensor:
    """Mean absolute difference of the RMS in windows of `window_s`: blind to phase.

    Windows overlap by half; one that holds an unknown sample does not count.

    Raises:
        ParameterError: A window shorter than one sample.
        SignalError: A signal shorter than one window.
    """
    size = round(window_s * sample_rate_hz)
    if size < 1:
        raise ParameterError(f"window_s is {window_s}, less than a sample", where="envelope loss")
    output, target, known = masked(output, target, known)
    if output.shape[-1] < size:
        raise SignalError(f"{output.shape[-1]} samples are less than one window of {size}")
    hop = max(1, size // 2)
    levels = [_rms(signal.unfold(-1, size, hop)) for signal in (output, target)]
    whole = None if known is None else known.unfold(-1, size, hop).all(-1)
    return l1(levels[0], levels[1], whole)


def contains_event(events: Tensor, contains: Tensor, known: Tensor | None = None) -> Tensor:
    """Weak labels: whether a recording has an event at all.

    The expected number of events n makes "at least one" as probable as 1 - exp(-n), a Poisson
    process; the loss is the cross entropy with the label.

    Args:
        events: (..., channels, samples), a signal or density of events, not negative.
        contains: (...), 1 or 0 (bool or float) per recording.
        known: (..., samples), where events count.

    Raises:
        SignalError: Shapes that do not fit together.
    """
    if tuple(contains.shape) != tuple(events.shape[:-2]):
        raise SignalError(
            f"events {tuple(events.shape)} need labels {tuple(events.shape[:-2])}, "
            f"got {tuple(contains.shape)}"
        )
    if known is not None:
        _check_mask(known, events)
        events = torch.where(known[..., None, :], events, 0.0)
    # the margin keeps a gradient where no event is seen yet
    expected = events.sum((-2, -1)) + 1e-3
    label = contains.to(expected)
    return (label * -torch.log(-torch.expm1(-expected)) + (1 - label) * expected).mean()


def masked(
    output: Tensor, target: Tensor, known: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both signals with zero where nobody knows, so that NaN there reaches no gradient.

    Raises:
        SignalError: Shapes that differ: broadcasting would compare everything with everything.
    """
    if output.shape != target.shape:
        raise SignalError(
            f"the output is {tuple(output.shape)}, its target {tuple(target.shape)}",
            hint="both are (..., channels, samples)",
        )
    if known is None:
        return output, target.to(output), None
    _check_mask(known, output)
    place = known[..., None, :]
    return torch.where(place, output, 0.0), torch.where(place, target.to(output), 0.0), known


def mean_known(values: Tensor, known: Tensor | None) -> Tensor:
    """Mean of values (..., channels, n) over what is known (..., n); zero if that is nothing."""
    if known is None:
        return values.mean()
    place = known[..., None, :].expand_as(values)
    return torch.where(place, values, 0.0).sum() / place.sum().clamp(min=1)


def _mean_of(
    rule: Callable[[Tensor], Tensor], output: Tensor, target: Tensor, known: Tensor | None
) -> Tensor:
    output, target, known = masked(output, target, known)
    return mean_known(rule(output - target), known)


def _check_mask(known: Tensor, signal: Tensor) -> None:
    expected = (*signal.shape[:-2], signal.shape[-1])
    if known.dtype != torch.bool or tuple(known.shape) != expected:
        raise SignalError(
            f"known is bool {expected} for a signal {tuple(signal.shape)}, "
            f"got {known.dtype} {tuple(known.shape)}"
        )


def _rms(frames: Tensor) -> Tensor:
    # the root of zero has no derivative
    return torch.sqrt(frames.square().mean(-1) + 1e-12)
