"""Calls of the compiled training kernels: tensors as rows for their lanes, on several threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from microddsp.relax_ops.adjoint import Adjoint, differentiate, reads_output
from microddsp.relax_ops.expression import in_order
from microddsp.relax_ops.kernel_cache import step_kernels
from microddsp.relax_ops.sample_operator import SampleOperator
from microddsp.relax_ops.threads import side_by_side, spans, useful

DTYPES = {torch.float32: "float32", torch.float64: "float64"}


@cache
def _adjoint(operator: SampleOperator, count: int) -> Adjoint:
    return differentiate(operator.step(count))


@cache
def _reads_output(operator: SampleOperator, count: int) -> bool:
    return reads_output(_adjoint(operator, count))


@cache
def _calls_out(operator: SampleOperator, count: int) -> bool:
    """Whether a step calls what works on single numbers only."""
    step = operator.step(count)
    return any(e.op == "fmod" for e in in_order([*step.outputs, *step.next_states]))


class _Rows:
    """A call as rows: batch times channels, padded to a multiple of the lanes."""

    def __init__(
        self, operator: SampleOperator, signals: Sequence[Tensor], parameters: Tensor
    ) -> None:
        self.shape = signals[0].shape
        self.channels, samples = self.shape[-2:]
        self.count = math.prod(parameters.shape[-operator.parameter_rank :])
        self.rows = signals[0].numel() // samples
        together = 4 if self.rows <= 4 else 8
        self.lanes = 1 if self.rows == 1 or _calls_out(operator, self.count) else together
        self.shared = parameters.dim() == operator.parameter_rank
        self.parameter_shape = parameters.shape
        flat = parameters.reshape(-1, self.count)
        batch = self.rows // max(self.channels, 1)
        flat = flat.expand(self.rows, -1) if self.shared else flat.repeat(batch, 1)
        self.parameters = self.pad(flat)
        self.signals = [self.pad(x) for x in signals]
        self.blocks = self.parameters.shape[0] // self.lanes
        self.kernels = step_kernels(operator, self.count, self.lanes, DTYPES[signals[0].dtype])

    def run(self, kernel: str, *arguments: Tensor) -> None:
        """Call a kernel on all rows; each thread has blocks of its own."""
        parts = useful(self.blocks, self.signals[0].numel())
        if parts == 1:
            self.kernels[kernel](*arguments)
            return

        def task(first: int, last: int) -> Callable[[], None]:
            def share(value: Tensor) -> Tensor:
                each = value.shape[0] // self.blocks
                return value[first * each : last * each]

            own = [share(value) for value in arguments]
            return lambda: self.kernels[kernel](*own)

        side_by_side([task(*span) for span in spans(self.blocks, parts)])

    def pad(self, value: Tensor) -> Tensor:
        value = value.reshape(self.rows, -1)
        missing = -self.rows % self.lanes
        if missing:
            value = torch.cat([value, value.new_zeros(missing, *value.shape[1:])])
        return value.contiguous()

    def new(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A tensor to be filled, and the rows a kernel fills: its own memory where no lane is
        padding. The tensor is no view, so that users may change it in place."""
        result = self.parameters.new_empty(shape)
        rows = result.view(self.rows, -1)
        if self.rows % self.lanes:
            rows = rows.new_empty(self.parameters.shape[0], rows.shape[1])
        return result, rows

    def fill(self, result: Tensor, rows: Tensor) -> Tensor:
        """The tensor of `new` once the kernel has run."""
        if self.rows % self.lanes:
            result.view(self.rows, -1).copy_(rows[: self.rows])
        return result

    def fill_all(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        return [self.fill(result, rows) for result, rows in pairs]

    def gradient(self, value: Tensor) -> Tensor:
        """Gradients of the parameters from those of each row."""
        value = value[: self.rows]
        if self.shared:
            return value.sum(0).reshape(self.parameter_shape)
        return value.reshape(-1, self.channels, self.count).sum(0).reshape(self.parameter_shape)


def forward(
    operator: SampleOperator,
    signals: Sequence[Tensor],
    parameters: Tensor,
    state: Tensor,
    *,
    taped: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and next state, and what the backward pass needs."""
    signals = operator.apart(signals, len(operator.inputs))
    like = signals[0]
    if not like.numel():
        nothing = [like.new_empty(like.shape) for _ in range(operator.outputs)]
        return [*operator.together(nothing), state.clone()], []
    rows = _Rows(operator, signals, parameters)
    outputs = [rows.new(like.shape) for _ in range(operator.outputs)]
    following = rows.new(state.shape)
    tapes = len(_adjoint(operator, rows.count).tape) if taped else 0
    tape = [like.new_empty(rows.blocks, like.shape[-1], tapes, rows.lanes)] if tapes else []
    rows.run(
        "taped" if taped else "forward",
        *rows.signals,
        rows.parameters,
        rows.pad(state),
        *(y for _, y in outputs),
        *tape,
        following[1],
    )
    results = rows.fill_all(outputs)
    saved = []
    if taped and _reads_output(operator, rows.count):
        # the result itself, so that torch notices if the user changes it before the backward pass
        saved = [y_rows if rows.rows % rows.lanes else y for y, y_rows in outputs]
    return [*operator.together(results), rows.fill(*following)], saved + tape


def backward(
    operator: SampleOperator,
    signals: Sequence[Tensor],
    parameters: Tensor,
    saved: Sequence[Tensor],
    cotangents: Sequence[Tensor],
) -> list[Tensor]:
    """Gradients of signals, parameters and state, from those of the outputs and the next state."""
    *given, gstate = cotangents
    signals = operator.apart(signals, len(operator.inputs))
    gys, like = operator.apart(given, operator.outputs), signals[0]
    if not like.numel():
        empty = [x.new_empty(x.shape) for x in signals]
        return [*operator.together(empty), torch.zeros_like(parameters), gstate.clone()]
    rows = _Rows(operator, signals, parameters)
    gxs = [rows.new(x.shape) for x in signals]
    gstart = rows.new(gstate.shape)
    gp = torch.empty_like(rows.parameters)
    if _reads_output(operator, rows.count):
        count = operator.outputs
        saved = [*(y.view(rows.signals[0].shape) for y in saved[:count]), *saved[count:]]
    rows.run(
        "backward",
        *rows.signals,
        rows.parameters,
        *saved,
        *(rows.pad(g) for g in gys),
        rows.pad(gstate),
        *(g for _, g in gxs),
        gp,
        gstart[1],
    )
    found = operator.together(rows.fill_all(gxs))
    return [*found, rows.gradient(gp), rows.fill(*gstart)]
