"""Learnable numbers whose every stored value is valid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from microddsp.dsp.filter import exact
from microddsp.errors import ParameterError

Number = float | Sequence[float]


class Between(torch.nn.Module):
    """A learnable number, or one per channel, between two others; stored as a logit.

    Raises:
        ParameterError: Not strictly between `low` and `high`.
    """

    def __init__(
        self, name: str, value: Number, low: float, high: float, where: str, *, unit: str = ""
    ) -> None:
        super().__init__()
        start = torch.as_tensor(value, dtype=torch.float64)
        if start.dim() > 1 or not start.numel():
            raise ParameterError(f"{name} is one number or one per channel", where=where)
        if not bool(((start > low) & (start < high)).all()):
            raise ParameterError(
                f"{name} must be above {low:g}{unit} and below {high:g}{unit}, got {value}",
                where=where,
            )
        self.low, self.high = low, high
        self.raw = torch.nn.Parameter(torch.logit((start - low) / (high - low)).float())

    def forward(self) -> Tensor:
        """The number, float64."""
        return self.low + (self.high - self.low) * torch.sigmoid(exact(self.raw))


def free(name: str, value: Number, where: str) -> torch.nn.Parameter:
    """Any finite number, or one per channel, as a parameter.

    Raises:
        ParameterError: Not finite.
    """
    start = torch.as_tensor(value, dtype=torch.float32)
    if start.dim() > 1 or not start.numel() or not bool(torch.isfinite(start).all()):
        raise ParameterError(
            f"{name} is one finite number or one per channel, got {value}", where=where
        )
    return torch.nn.Parameter(start)
