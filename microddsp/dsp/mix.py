"""Channels from sums of channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from microddsp.dsp.causal_conv1d import CausalConv1d
from microddsp.errors import ParameterError


class Mix(CausalConv1d):
    """Each output channel is a learnable weighted sum of the input channels.

    Args:
        weights: (outputs, inputs): weights[o][i] is how much of channel i is in output o.

    Raises:
        ParameterError: No matrix, or not finite.
    """

    def __init__(self, weights: np.ndarray | Sequence[Sequence[float]] | Tensor) -> None:
        matrix = torch.as_tensor(np.asarray(weights, dtype="float32"))
        if matrix.dim() != 2 or not matrix.numel() or not bool(torch.isfinite(matrix).all()):
            raise ParameterError(
                f"weights are (outputs, inputs), finite numbers, got the shape "
                f"{tuple(matrix.shape)}",
                where="Mix",
            )
        outputs, inputs = matrix.shape
        super().__init__(inputs, outputs, 1, bias=False)
        self.weight = torch.nn.Parameter(matrix[..., None].clone())

    @property
    def weights(self) -> Tensor:
        """The matrix (outputs, inputs)."""
        return self.weight[..., 0]

    def extra_repr(self) -> str:
        rows = ", ".join(
            "[" + ", ".join(f"{v:.4g}" for v in row) + "]"
            for row in self.weights.detach().double().tolist()
        )
        return f"weights=[{rows}]"
