"""Convolution over channels and past samples, for streams."""

from __future__ import annotations

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, whole, zeros
from microddsp.errors import ParameterError


class CausalConv1d(Block):
    """`torch.nn.Conv1d` that keeps the past: any chunking gives the whole signal's result.

    Equals left padding by (kernel_size - 1) * dilation and a plain `Conv1d`; output m belongs to
    input sample m * stride. Chunks must be multiples of the stride.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias: as torch's.

    Raises:
        ParameterError: Not a positive whole number, or channels that groups do not divide.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        where = "CausalConv1d"
        self.in_channels = whole("in_channels", in_channels, where)
        self.stride = whole("stride", stride, where)
        self.dilation = whole("dilation", dilation, where)
        self.groups = whole("groups", groups, where)
        whole("out_channels", out_channels, where)
        whole("kernel_size", kernel_size, where)
        if in_channels % groups or out_channels % groups:
            raise ParameterError(
                f"groups {groups} must divide {in_channels} and {out_channels} channels",
                where=where,
            )
        # torch's own initialisation
        start = torch.nn.Conv1d(in_channels, out_channels, kernel_size, groups=groups, bias=bias)
        self.weight, self.bias = start.weight, start.bias

    def initial_state(self, x: Tensor) -> State:
        return {"line": zeros(x, (self.weight.shape[-1] - 1) * self.dilation)}

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, line = relax_ops.causal_conv1d(
            x,
            self.weight.to(x),
            None if self.bias is None else self.bias.to(x),
            state["line"],
            self.stride,
            self.dilation,
            self.groups,
        )
        return y, {"line": line}

    @property
    def settle_samples(self) -> int:
        return (int(self.weight.shape[-1]) - 1) * self.dilation

    def extra_repr(self) -> str:
        out, inner, size = self.weight.shape
        return (
            f"{inner * self.groups}, {out}, kernel_size={size}, stride={self.stride}, "
            f"dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}"
        )
