"""How far thresholds are from those that count wrongly.

Of two candidates that count everything right, the better one is that which still would with other
thresholds: the next recording is not like those seen. So errors are averaged over thresholds
around, with weights that fall by 1/e per `margin`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.event_counter import EventCounter
from microddsp.training.counts import find_counter, known_samples
from microddsp.training.windows import Windows

# A usual one, as a share.
MARGIN = 0.15
# Thresholds tried per margin, and how many margins to each side are judged and are looked at.
_PER_MARGIN, _REACH = 2, 3


@dataclass(frozen=True, slots=True)
class Heard:
    """The signal (windows, channels, samples) that goes into a counter; `known` is None where all
    of it is."""

    counter: EventCounter
    signal: Tensor
    known: Tensor | None
    counts: Tensor

    def error(self, thresholds: Tensor) -> float:
        """Mean count error with other thresholds, (2,) or (channels, 2): firing and release."""
        state = self.signal.new_zeros((*self.signal.shape[:-1], 3), dtype=torch.int32)
        count, events, _ = relax_ops.event_counter(
            self.signal, thresholds.to(self.signal), state, self.counter.refractory_samples
        )
        if self.known is None:
            counted = count.sum((-2, -1))
        else:
            counted = torch.where(self.known.unsqueeze(-2), events, 0).sum((-2, -1))
        return float((counted - self.counts).abs().mean())


def hear(pipeline: torch.nn.Module, windows: Windows) -> Heard:
    """What the counter of a pipeline hears of windows.

    Raises:
        ParameterError: Not one counter.
        SignalError: The windows are no whole number of the counter's samples.
    """
    counter = find_counter(pipeline)
    caught: list[Tensor] = []

    def catch(_: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        caught.append(arguments[0])

    hook = counter.register_forward_pre_hook(catch)
    try:
        pipeline(windows.signals)
    finally:
        hook.remove()
    known = known_samples(windows, caught[-1].shape[-1])
    return Heard(counter, caught[-1], None if bool(known.all()) else known, windows.counts)


def weights(places: Tensor, margin: float) -> Tensor:
    """(n, n): rows that average over what is around each of n places."""
    return _shares(torch.exp(-(places[:, None] - places).abs() / margin))


def endless_weights(places: Tensor, margin: float) -> Tensor:
    """The same for places in equal steps that go on at both ends, with what is there."""
    found = torch.exp(-(places[:, None] - places).abs() / margin)
    if len(places) > 1:
        ends = -torch.expm1(-(places[1] - places[0]) / margin)  # of a geometric series
        found[:, 0] /= ends
        found[:, -1] /= ends
    return _shares(found)


def _shares(found: Tensor) -> Tensor:
    return found / found.sum(-1, keepdim=True)


@torch.no_grad()
def centre(pipeline: torch.nn.Module, versions: Sequence[Windows], margin: float) -> float:
    """Put the thresholds of a pipeline in the middle of those that fit, and give their mean error
    with that of their surroundings.

    `versions` are the same windows as they may sound, all with equal weight. With margin 0
    thresholds are left as they are, and the error is theirs alone.
    """
    counter = find_counter(pipeline)
    reach = _REACH * _PER_MARGIN if margin > 0 else 0
    steps = torch.arange(-2 * reach, 2 * reach + 1, dtype=torch.float64)
    tried = [_moved(counter, float(step) * margin / _PER_MARGIN) for step in steps]
    errors = torch.zeros(len(tried), dtype=torch.float64)
    for windows in versions:
        heard = hear(pipeline, windows)
        found = [heard.error(thresholds) for thresholds in tried]
        errors += torch.tensor(found)
    errors /= len(versions)
    near = torch.exp(-steps[reach : len(steps) - reach].abs() / _PER_MARGIN)
    scores = (errors.unfold(0, len(near), 1) * (near / near.sum())).sum(-1)
    # of equals the nearest: what fits is left alone
    best = int((scores + 1e-9 * steps[reach : len(steps) - reach].abs()).argmin())
    if best != reach:
        high, low = tried[best + reach].unbind(-1)
        counter.level.copy_(high)
        counter.gap.raw.copy_((high - low).log())
    return float(scores[best])


@contextmanager
def moved_at_random(
    counter: EventCounter, rows: int, margin: float, generator: torch.Generator
) -> Iterator[None]:
    """Inside, each of `rows` windows is counted with other thresholds, as often as `centre` gives
    them weight."""
    if margin == 0:
        yield
        return
    uniform = 2 * torch.rand(rows, 1, 1, generator=generator) - 1
    shifts = -margin * uniform.sign() * torch.log1p(-uniform.abs())  # Laplace
    shifts = shifts.clamp(-_REACH * margin, _REACH * margin)

    def move(_: torch.nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        x = arguments[0]
        if _positive(counter):
            return (x * torch.exp(-shifts), *arguments[1:])
        gap = counter.gap().detach().to(x)
        return (x - shifts * (gap[:, None] if gap.dim() else gap), *arguments[1:])

    hook = counter.register_forward_pre_hook(move)
    try:
        yield
    finally:
        hook.remove()


def _positive(counter: EventCounter) -> bool:
    return bool((counter.release_threshold > 0).all())


def _moved(counter: EventCounter, shift: float) -> Tensor:
    """Both thresholds (..., 2): scaled where they are above zero, else moved by that share of the
    distance between them."""
    both = torch.stack([counter.threshold, counter.release_threshold], -1)
    if _positive(counter):
        return both * torch.exp(torch.tensor(shift, dtype=torch.float64))
    return both + shift * (both[..., :1] - both[..., 1:])
