"""What a training step sees: signals with their targets, drawn whole, by rows or as crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from microddsp.errors import ParameterError, SignalError


@dataclass(frozen=True, slots=True)
class Batch:
    """signals: (rows, channels, samples); targets: anything with as many rows; known: bool
    (rows, samples), True where the target is to be believed, None: everywhere."""

    signals: Tensor
    targets: Tensor
    known: Tensor | None = None

    def __post_init__(self) -> None:
        for what, value in (("signals", self.signals), ("targets", self.targets)):
            if not isinstance(value, Tensor):
                raise SignalError(f"{what} are a torch tensor, not {type(value).__name__}")
        if self.signals.dim() != 3 or not self.signals.numel():
            raise SignalError(
                f"signals are (rows, channels, samples), got {tuple(self.signals.shape)}"
            )
        if self.targets.shape[:1] != self.signals.shape[:1]:
            raise SignalError(f"{len(self.targets)} targets do not fit {len(self.signals)} signals")
        expected = (self.signals.shape[0], self.signals.shape[-1])
        if self.known is not None and tuple(self.known.shape) != expected:
            raise SignalError(f"known is {expected}, got {tuple(self.known.shape)}")

    def __len__(self) -> int:
        return int(self.signals.shape[0])

    def select(self, index: Tensor) -> Batch:
        """Some of the rows."""
        known = None if self.known is None else self.known[index]
        return Batch(self.signals[index], self.targets[index], known)

    def cut(self, start: int, stop: int) -> Batch:
        """A span of samples of all rows; targets must be signals too."""
        known = None if self.known is None else self.known[:, start:stop]
        return Batch(self.signals[..., start:stop], self.targets[..., start:stop], known)


Draw = Callable[[torch.Generator], Batch]


def whole(data: Batch) -> Draw:
    """Every step sees everything."""
    return lambda _: data


def rows(data: Batch, size: int) -> Draw:
    """Every step sees `size` rows, chosen anew.

    Raises:
        ParameterError: Not from 1 to the number of rows.
    """
    if not 1 <= size <= len(data):
        raise ParameterError(f"cannot draw {size} of {len(data)} rows")
    return lambda generator: data.select(torch.randperm(len(data), generator=generator)[:size])


def crops(data: Batch, size: int, samples: int, *, settle_samples: int = 0) -> Draw:
    """Every step sees `size` spans of `samples`, from rows and places chosen anew.

    In the first `settle_samples` of each span filters start; nothing there is believed.

    Raises:
        ParameterError: Numbers that do not fit the data.
        SignalError: Targets that are no signals of the same length.
    """
    length = data.signals.shape[-1]
    if size < 1 or not 0 <= settle_samples < samples <= length:
        raise ParameterError(
            f"cannot draw {size} spans of {samples} with {settle_samples} to settle of {length}"
        )
    if data.targets.shape[-1:] != data.signals.shape[-1:] or data.targets.dim() < 2:
        raise SignalError("crops need targets that are signals of the same length")

    def draw(generator: torch.Generator) -> Batch:
        row = torch.randint(len(data), (size,), generator=generator)
        starts = torch.randint(length - samples + 1, (size,), generator=generator)
        parts = [
            data.select(row[i : i + 1]).cut(start, start + samples)
            for i, start in enumerate(starts.tolist())
        ]
        known = torch.ones(size, samples, dtype=torch.bool)
        if data.known is not None:
            known = torch.cat([p.known for p in parts if p.known is not None])
        settled = known & (torch.arange(samples) >= settle_samples)
        signals, targets = (
            torch.cat(values) for values in ([p.signals for p in parts], [p.targets for p in parts])
        )
        return Batch(signals, targets, settled)

    return draw


def random_inputs(truth: torch.nn.Module, shape: Sequence[int], *, level: float = 1.0) -> Draw:
    """Every step sees new white noise (rows, channels, samples), and what `truth` makes of it."""
    size = tuple(shape)

    def draw(generator: torch.Generator) -> Batch:
        signals = level * torch.randn(size, generator=generator)
        with torch.no_grad():
            return Batch(signals, truth(signals))

    return draw
