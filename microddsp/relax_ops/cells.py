"""Cells of recurrent layers as steps: gates in the order of torch's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _product(weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    y = weight @ x
    return y if bias is None else y + bias


def _weights(parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    inputs, hidden, *biases = parameters
    of_inputs, of_hidden = biases or (None, None)
    return inputs, hidden, of_inputs, of_hidden


def gru_cell(
    x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """One sample of a gated recurrent unit.

    Source: K. Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014, with
    the reset gate behind the product, as torch.nn.GRU has it.

    Args:
        x: (inputs,).
        states: [(hidden,)].
        parameters: Weights (3 hidden, inputs) and (3 hidden, hidden), and two biases or none.

    Returns:
        The output (hidden,), and the state, which is the same.
    """
    (h,) = states
    of_x, of_h, bias_x, bias_h = _weights(parameters)
    size = h.shape[0]
    from_x = _product(of_x, x, bias_x)
    from_h = _product(of_h, h, bias_h)
    reset = torch.sigmoid(from_x[:size] + from_h[:size])
    update = torch.sigmoid(from_x[size : 2 * size] + from_h[size : 2 * size])
    new = torch.tanh(from_x[2 * size :] + reset * from_h[2 * size :])
    after = new + update * (h - new)
    return after, [after]


def lstm_cell(
    x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """One sample of long short-term memory.

    Source: S. Hochreiter, J. Schmidhuber, "Long short-term memory", 1997, as torch.nn.LSTM.

    Args:
        x: (inputs,).
        states: Hidden state and cell state, (hidden,) each.
        parameters: Weights (4 hidden, inputs) and (4 hidden, hidden), and two biases or none.

    Returns:
        The output (hidden,), and both states.
    """
    h, c = states
    of_x, of_h, bias_x, bias_h = _weights(parameters)
    size = h.shape[0]
    gates = _product(of_x, x, bias_x) + _product(of_h, h, bias_h)
    take, keep, new, show = (gates[i * size : (i + 1) * size] for i in range(4))
    c = torch.sigmoid(keep) * c + torch.sigmoid(take) * torch.tanh(new)
    h = torch.sigmoid(show) * torch.tanh(c)
    return h, [h, c]
