"""Recurrent layers of torch as scans: a loop on the device, not a copy of the cell per step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from microddsp.relax_ops.cells import gru_cell, lstm_cell
from microddsp.relax_ops.scan import along
from microddsp.relax_ops.step_graph import Flat


def _layers(
    cell: Flat,
    x: Tensor,
    starts: Sequence[Tensor],
    parameters: Sequence[Tensor],
    options: Sequence[Any],
) -> Any:
    """Output and last states of stacked, perhaps bidirectional layers.

    `starts` are (layers times directions, batch, hidden) each; options as torch has them:
    (biases, layers, dropout, training, bidirectional, batch first).
    """
    biases, layers, dropout, training, bidirectional, batch_first = options
    directions = 2 if bidirectional else 1
    each = len(parameters) // (layers * directions)
    if (training and dropout) or each != (4 if biases else 2):
        return None  # random, or with a projection
    signal = x.permute(0, 2, 1) if batch_first else x.permute(1, 2, 0)
    last: list[list[Tensor]] = [[] for _ in starts]
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            at = layer * directions + direction
            own = list(parameters[at * each : (at + 1) * each])
            before = [start[at] for start in starts]
            given = signal.flip(-1) if direction else signal
            y, after = along(cell, given, before, own)
            outputs.append(y.flip(-1) if direction else y)
            for held, value in zip(last, after, strict=True):
                held.append(value)
        signal = torch.cat(outputs, 1) if directions > 1 else outputs[0]
    y = signal.permute(0, 2, 1) if batch_first else signal.permute(2, 0, 1)
    return (y, *(torch.stack(held) for held in last))


class RecurrentLayersAsScans(TorchFunctionMode):
    """Inside, calls of torch's recurrent layers run as scans."""

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        cell = _CELLS.get(function)
        if cell is not None and len(args) == 9 and isinstance(args[2], list | tuple):
            x, start, parameters, *options = args
            starts = [start] if isinstance(start, Tensor) else start
            result = _layers(cell, x, starts, parameters, options)
            if result is not None:
                return result
        return function(*args, **(kwargs or {}))


_CELLS: dict[Any, Flat] = {torch._VF.gru: gru_cell, torch._VF.lstm: lstm_cell}
