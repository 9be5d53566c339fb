"""Weights learned in few bits: rounded in the forward pass, as if they were not in the backward.

training.round_weights(module, bits=8)
train(module, ...)
microddsp.compile(module, x, narrow=True)      # a byte for each weight
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from microddsp.dsp.block import whole
from microddsp.errors import ParameterError

MOST_BITS = 16


class Rounded(torch.nn.Module):
    """A tensor as whole multiples of a power of two, `bits` wide with their sign.

    The gradient is that of the tensor itself.

    Source: Y. Bengio, N. Leonard, A. Courville, "Estimating or propagating gradients through
    stochastic neurons for conditional computation", 2013 (straight through).
    """

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self.bits = whole("bits", bits, "Rounded", least=2)
        if self.bits > MOST_BITS:
            raise ParameterError(f"bits must be at most {MOST_BITS}, got {bits}", where="Rounded")

    def forward(self, weight: Tensor) -> Tensor:
        kept = weight.detach()
        most = 2 ** (self.bits - 1) - 1
        # the least power of two with which the largest number still fits
        largest = kept.abs().amax().clamp(min=torch.finfo(torch.float32).tiny * 2**MOST_BITS)
        scale = torch.exp2(torch.ceil(torch.log2(largest / most)))
        nearest = (kept / scale).round().clamp(-most, most) * scale
        return nearest + (weight - kept)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


def round_weights(module: torch.nn.Module, *, bits: int = 8) -> list[str]:
    """Round every matrix of weights in a module from now on, in training and on the device.

    Parameters of two dimensions or more are rounded (`torch.nn.Linear`, `Conv1d`, `dsp.Mix`);
    what has one number per channel (frequencies, gains, biases) is not.

    Args:
        module: Changed in place, by `torch.nn.utils.parametrize`.
        bits: 2 to 16, the sign included. Up to 8 take one byte on the device, more take two.

    Returns:
        The names of what is rounded.

    Raises:
        ParameterError: Bits outside their range, or nothing to round.
    """
    rounded = []
    for path, inner in list(module.named_modules()):
        for name, value in list(inner.named_parameters(recurse=False)):
            if value.dim() >= 2 and value.is_floating_point():
                parametrize.register_parametrization(inner, name, Rounded(bits))
                rounded.append(f"{path}.{name}" if path else name)
    if not rounded:
        raise ParameterError("there is no matrix of weights to round", where="round_weights")
    return rounded
