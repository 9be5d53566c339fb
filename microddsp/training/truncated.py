"""Truncated backpropagation: long recordings, chunk by chunk, with the state handed on.

Memory and time of a step are those of one chunk; filters, envelopes and counters still hear the
whole recording, because every chunk starts from the state in which the last one ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from microddsp.dsp.streaming import step
from microddsp.errors import ParameterError
from microddsp.training.batches import Batch
from microddsp.training.losses import Loss


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span of all recordings; `first`: nothing was heard before it."""

    batch: Batch
    first: bool

    @property
    def signals(self) -> Tensor:
        """(recordings, channels, samples) of this span."""
        return self.batch.signals

    def __len__(self) -> int:
        return len(self.batch)

    def select(self, index: Tensor) -> Chunk:
        """Some of the recordings."""
        return Chunk(self.batch.select(index), self.first)


class TruncatedBackpropagation:
    """Batches and objective in one: `train(module, t.draw, t, ...)`.

    Gradients reach back to the start of a chunk; at the end of the recordings they begin anew.

    Args:
        recordings: Signals with targets of the same length.
        samples: Length of a chunk; what fills no whole chunk at the end is left out.
        loss: Of a chunk; with `known` it is zero where nothing is known.

    Raises:
        ParameterError: A chunk longer than the recordings.
    """

    def __init__(self, recordings: Batch, samples: int, loss: Loss) -> None:
        length = recordings.signals.shape[-1]
        if not 1 <= samples <= length:
            raise ParameterError(f"a chunk of {samples} samples does not fit {length}")
        self.recordings, self.samples, self.loss = recordings, samples, loss
        self.chunks = length // samples
        self.next = 0
        self.state: dict[str, Tensor] = {}
        self.following: dict[str, Tensor] = {}

    def draw(self, _: torch.Generator) -> Chunk:
        """The chunk after the last one."""
        first = self.next == 0
        # committed here and not in the loss: an optimiser may ask for the loss more than once
        self.state = {} if first else self.following
        start = self.next * self.samples
        self.next = (self.next + 1) % self.chunks
        return Chunk(self.recordings.cut(start, start + self.samples), first)

    def __call__(self, module: torch.nn.Module, chunk: Chunk) -> Tensor:
        y, following = step(module, chunk.batch.signals, self.state)
        self.following = {name: value.detach() for name, value in following.items()}
        return self.loss(y, chunk.batch.targets, chunk.batch.known)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise ParameterError(
                "a checkpoint holds the states of one process; several train here",
                where="TruncatedBackpropagation",
            )
        return {"next": self.next, "following": self.following}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.next, self.following = saved["next"], saved["following"]
