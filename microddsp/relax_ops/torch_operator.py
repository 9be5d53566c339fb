"""Sample-wise operators as torch operators: compiled kernels on the CPU, plain torch elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch.autograd import forward_ad

from microddsp.errors import SignalError
from microddsp.relax_ops import reference
from microddsp.relax_ops.adjoint import Adjoint, differentiate, reads_output
from microddsp.relax_ops.expression import in_order
from microddsp.relax_ops.kernel_cache import step_kernels
from microddsp.relax_ops.sample_operator import SampleOperator
from microddsp.relax_ops.threads import side_by_side, spans, useful

_DTYPES = {torch.float32: "float32", torch.float64: "float64"}


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
        self.kernels = step_kernels(operator, self.count, self.lanes, _DTYPES[signals[0].dtype])

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
    like = signals[0]
    if not like.numel():
        return [*(like.new_empty(like.shape) for _ in range(operator.outputs)), state.clone()], []
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
    results = rows.fill_all([*outputs, following])
    saved = []
    if taped and _reads_output(operator, rows.count):
        # the result itself, so that torch notices if the user changes it before the backward pass
        saved = [y_rows if rows.rows % rows.lanes else y for y, y_rows in outputs]
    return results, saved + tape


def backward(
    operator: SampleOperator,
    signals: Sequence[Tensor],
    parameters: Tensor,
    saved: Sequence[Tensor],
    cotangents: Sequence[Tensor],
) -> list[Tensor]:
    """Gradients of signals, parameters and state, from those of the outputs and the next state."""
    like, (*gys, gstate) = signals[0], cotangents
    if not like.numel():
        empty = [x.new_empty(x.shape) for x in signals]
        return [*empty, torch.zeros_like(parameters), gstate.clone()]
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
    return [*rows.fill_all(gxs), rows.gradient(gp), rows.fill(*gstart)]


class _Recursion(torch.autograd.Function):
    """The eager path in training: the forward pass keeps its tape."""

    @staticmethod
    def forward(ctx: Any, operator: SampleOperator, *values: Tensor) -> tuple[Tensor, ...]:
        *signals, parameters, state = values
        results, saved = forward(operator, signals, parameters, state, taped=True)
        ctx.operator = operator
        ctx.save_for_backward(*values, *saved)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.operator.inputs)
        signals, (parameters, state, *saved) = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        if torch.is_grad_enabled():  # create_graph: somebody will differentiate this again
            values = (*signals, parameters, state)
            return (None, *plain_backward(ctx.operator, values, cotangents))
        return (None, *backward(ctx.operator, signals, parameters, saved, cotangents))


def plain_backward(
    operator: SampleOperator, values: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Gradients that can be differentiated again, by the plain recursion; slow. `values` are the
    signals, the parameters and the state."""
    # views: what x itself was made of is the business of others
    inputs = [v.view_as(v) if v.requires_grad else v.detach().requires_grad_() for v in values]
    return gradients_of_plain(operator, inputs, cotangents, create_graph=True)


def gradients_of_plain(
    operator: SampleOperator,
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    *,
    create_graph: bool = False,
) -> tuple[Tensor, ...]:
    """What torch makes of the plain recursion; zero where a result depends on nothing."""
    results = zip(plain(operator, *inputs), cotangents, strict=True)
    flowing = [(y, g) for y, g in results if y.requires_grad]
    if not flowing:
        return tuple(torch.zeros_like(v) for v in inputs)
    outputs, given = zip(*flowing, strict=True)
    return torch.autograd.grad(
        outputs,
        inputs,
        given,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )


def plain(operator: SampleOperator, *values: Tensor) -> tuple[Tensor, ...]:
    """Outputs and next state of `(signals.., parameters, state)` by torch's own operations."""
    *signals, coefficients, state = values
    rank = operator.parameter_rank
    flat = coefficients.reshape(*coefficients.shape[: coefficients.dim() - rank], -1)
    step = operator.step(flat.shape[-1])
    start = state.reshape(*signals[0].shape[:-1], -1)
    *outputs, following = reference.run(step, signals, flat, start)
    return (*outputs, following.reshape(state.shape))


def apply(
    operator: SampleOperator, x: Tensor, coefficients: Tensor, state: Tensor, *text: str
) -> tuple[Tensor, Tensor]:
    """Run a sample-wise operator: differentiable in signal, parameters and initial state.

    `text` is what tells operators of a family apart.

    Raises:
        SignalError: Shapes or types that do not fit together.
    """
    y, following = apply_all(operator, [x], coefficients, state, *text)
    return y, following


def apply_all(
    operator: SampleOperator,
    signals: Sequence[Tensor],
    coefficients: Tensor,
    state: Tensor,
    *text: str,
) -> tuple[Tensor, ...]:
    """As `apply`, with any number of signals in and out; the next state is the last result.

    Raises:
        SignalError: See `apply`.
    """
    check(operator, signals, coefficients, state)
    values = (*signals, coefficients, state)
    if traced(*values):
        return tuple(getattr(torch.ops.microddsp, operator.name)(*values, *text))
    if signals[0].device.type != "cpu" or transformed():
        return plain(operator, *values)
    if torch.is_grad_enabled() and any(v.requires_grad for v in values):
        return tuple(_Recursion.apply(operator, *values))
    return tuple(forward(operator, signals, coefficients, state, taped=False)[0])


def call(operator: CustomOpDef, *arguments: Any) -> Any:
    """Run an operator whose body is plain torch. Where a transform is at work that body is called:
    a registered operator would lose its tangents, silently."""
    values = [v for v in arguments if isinstance(v, Tensor)]
    if transformed() and not traced(*values):
        return operator._init_fn(*arguments)
    return operator(*arguments)


def traced(*values: Tensor) -> bool:
    """Whether a call must go through `torch.ops`: tracers have to see the operator, and their
    values have no memory. Plain calls go past it, because the first call of a custom operator
    imports the whole of torch's compiler."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or any(type(v) not in (Tensor, torch.nn.Parameter) for v in values)
    )


def transformed() -> bool:
    """Whether `torch.func` or forward-mode differentiation is at work: only plain torch operations
    carry what they need, a kernel would lose the tangents silently."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def check(
    operator: SampleOperator, signals: Sequence[Tensor], coefficients: Tensor, state: Tensor
) -> None:
    """Refuse what the kernels would misread.

    Raises:
        SignalError: See `apply`.
    """
    where = f"microddsp.{operator.name}"
    x = signals[0]
    if x.dim() < 2:
        raise SignalError(
            f"a signal is (..., channels, samples), got {tuple(x.shape)}", where=where
        )
    if x.dtype not in _DTYPES:
        raise SignalError(f"a signal is float32 or float64, not {x.dtype}", where=where)
    named = zip(operator.inputs, signals, strict=True)
    for what, value in (*named, ("coefficients", coefficients), ("state", state)):
        if value.dtype != x.dtype or value.device != x.device:
            raise SignalError(
                f"{what} must be {x.dtype} on {x.device} like the signal, "
                f"got {value.dtype} on {value.device}",
                where=where,
            )
    for what, value in zip(operator.inputs, signals, strict=True):
        if value.shape != x.shape:
            raise SignalError(
                f"{what} of shape {tuple(value.shape)} does not fit {operator.inputs[0]} of "
                f"shape {tuple(x.shape)}",
                where=where,
            )
    rank = operator.parameter_rank
    own = coefficients.shape[: coefficients.dim() - rank]
    if coefficients.dim() < rank or own not in ((), (x.shape[-2],)):
        raise SignalError(
            f"coefficients of shape {tuple(coefficients.shape)} fit neither all channels nor "
            f"each of {x.shape[-2]}",
            where=where,
        )
    count = math.prod(coefficients.shape[coefficients.dim() - rank :])
    expected = (*x.shape[:-1], *operator.state_shape(count))
    if tuple(state.shape) != expected:
        raise SignalError(
            f"the state must have shape {expected}, got {tuple(state.shape)}", where=where
        )
