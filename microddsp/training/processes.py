"""Several processes on one training: each takes its share of a batch, gradients are averaged.

Start the script with `torchrun --nproc-per-node N script.py`; nothing in it changes.
"""

from __future__ import annotations

import atexit
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from microddsp.errors import ParameterError


class Rows(Protocol):
    """A batch that can be shared out."""

    def __len__(self) -> int: ...

    def select(self: B, index: Tensor) -> B: ...


B = TypeVar("B", bound=Rows)


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among all that train together."""

    rank: int = 0
    size: int = 1

    def share(self, batch: B) -> tuple[B, float]:
        """The rows for this process, and what part of the batch they are.

        Raises:
            ParameterError: Fewer rows than processes.
        """
        if self.size == 1:
            return batch, 1.0
        rows = len(batch)
        if rows < self.size:
            raise ParameterError(f"{rows} rows of a batch cannot be shared by {self.size}")
        mine = torch.arange(self.rank, rows, self.size)
        return batch.select(mine), len(mine) / rows

    def same_start(self, module: torch.nn.Module) -> None:
        """Everybody begins with the parameters and buffers of the first process."""
        if self.size > 1:
            with torch.no_grad():
                for value in (*module.parameters(), *module.buffers()):
                    torch.distributed.broadcast(value, 0)

    def average(self, parameters: Sequence[torch.nn.Parameter], loss: Tensor, part: float) -> float:
        """Replace gradients by their mean over the whole batch; the mean loss."""
        if self.size == 1:
            return float(loss.detach())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        # one message for all: what a message costs is its start
        flat = torch.cat([g.flatten().double() for g in gradients] + [loss.detach().double()[None]])
        torch.distributed.all_reduce(flat.mul_(part))
        place = 0
        for parameter, gradient in zip(parameters, gradients, strict=True):
            mean = flat[place : place + gradient.numel()].view_as(gradient)
            parameter.grad = mean.to(gradient.dtype)
            place += gradient.numel()
        return float(flat[-1])


def processes() -> Processes:
    """Who takes part: what `torchrun` says, or the group that was set up already."""
    if not torch.distributed.is_available():
        return Processes()
    if not torch.distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) <= 1 or "RANK" not in os.environ:
            return Processes()
        # Its functions take the group as a default argument. Loaded later (an optimiser does so),
        # they would keep the group past its end, and its threads would run while Python ends: a
        # thread that then lets go of a tensor aborts the process.
        importlib.import_module("torch.distributed.nn.functional")
        torch.distributed.init_process_group("gloo")
        atexit.register(torch.distributed.destroy_process_group)
    return Processes(torch.distributed.get_rank(), torch.distributed.get_world_size())
