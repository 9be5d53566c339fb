"""Gated recurrent units along a stream."""

from __future__ import annotations

import torch
from torch import Tensor

from microddsp.dsp.block import Block, State, whole
from microddsp.errors import SignalError
from microddsp.relax_ops.cells import gru_cell
from microddsp.relax_ops.scan import along
from microddsp.relax_ops.torch_operator import traced


class GRU(Block):
    """Gated recurrent units over the samples of a stream, (channels, time) as all blocks have it.

    On the device one loop over the samples holds the cell; its flash does not grow with the block.
    Weights have the names and the order of torch.nn.GRU, whose trained ones can be loaded into
    `layers`: `block.layers.load_state_dict(gru.state_dict())`.

    Args:
        in_channels: Channels of the signal.
        hidden: Channels of the output, the hidden state.
        num_layers: Layers, each over the output of the one before.
        bias: Whether the gates have biases.

    Raises:
        ParameterError: A count that is no whole number from 1.

    Source: K. Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014.
    """

    def __init__(
        self, in_channels: int, hidden: int, *, num_layers: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.in_channels = whole("in_channels", in_channels, "GRU")
        self.hidden = whole("hidden", hidden, "GRU")
        self.num_layers = whole("num_layers", num_layers, "GRU")
        self.bias = bool(bias)
        self.layers = torch.nn.GRU(
            self.in_channels, self.hidden, self.num_layers, bias=self.bias, batch_first=True
        )

    def initial_state(self, x: Tensor) -> State:
        return {"hidden": x.new_zeros(*x.shape[:-2], self.num_layers, self.hidden)}

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if traced(x, state["hidden"]):
            return self._scanned(x, state["hidden"])
        batch = x.shape[:-2]
        if not x.shape[-1]:
            return x.new_empty(*batch, self.hidden, 0), state
        start = state["hidden"].reshape(-1, self.num_layers, self.hidden).transpose(0, 1)
        rows = x.reshape(-1, *x.shape[-2:]).mT
        weights = [w.to(x) for w in self._weights()]
        y, last = torch._VF.gru(
            rows, start.contiguous(), weights, self.bias, self.num_layers, 0.0, False, False, True
        )
        y = y.mT.reshape(*batch, self.hidden, x.shape[-1])
        return y, {"hidden": last.transpose(0, 1).reshape(state["hidden"].shape)}

    def _scanned(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, State]:
        """The same as a loop that an export keeps."""
        last = []
        each = 4 if self.bias else 2
        weights = [w.to(x) for w in self._weights()]
        for i in range(self.num_layers):
            own = weights[i * each : (i + 1) * each]
            x, (after,) = along(gru_cell, x, [hidden[..., i, :]], own)
            last.append(after)
        return x, {"hidden": torch.stack(last, -2)}

    def _weights(self) -> list[Tensor]:
        return [weight for layer in self.layers.all_weights for weight in layer]

    def check_signal(self, x: Tensor) -> None:
        super().check_signal(x)
        if x.shape[-2] != self.in_channels:
            raise SignalError(
                f"expected {self.in_channels} channels, got {x.shape[-2]}", where="GRU"
            )

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.hidden}, num_layers={self.num_layers}, bias={self.bias}"
