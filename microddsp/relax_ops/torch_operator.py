"""Sample-wise operators as torch operators: compiled kernels on the CPU, plain torch elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch.autograd import forward_ad

from microddsp.errors import SignalError
from microddsp.relax_ops import reference
from microddsp.relax_ops.adjoint import Adjoint, differentiate, reads_output
from microddsp.relax_ops.kernel_cache import step_kernels
from microddsp.relax_ops.sample_operator import SAMPLE_OPERATORS, SampleOperator
from microddsp.relax_ops.threads import side_by_side, spans, useful

_DTYPES = {torch.float32: "float32", torch.float64: "float64"}


@cache
def _adjoint(name: str, count: int) -> Adjoint:
    return differentiate(SAMPLE_OPERATORS[name].step(count))


@cache
def _reads_output(name: str, count: int) -> bool:
    return reads_output(_adjoint(name, count))


class _Rows:
    """A call as rows: batch times channels, padded to a multiple of the lanes.

    `lanes` are those of the forward pass, whose tape has their layout; 0: the best for the call.
    """

    def __init__(self, name: str, x: Tensor, parameters: Tensor, lanes: int = 0) -> None:
        operator = SAMPLE_OPERATORS[name]
        self.channels, samples = x.shape[-2], x.shape[-1]
        self.count = math.prod(parameters.shape[-operator.parameter_rank :])
        self.rows = x.numel() // samples
        self.lanes = lanes or (1 if self.rows == 1 else 4 if self.rows <= 4 else 8)
        self.shared = parameters.dim() == operator.parameter_rank
        self.parameter_shape = parameters.shape
        flat = parameters.reshape(-1, self.count)
        batch = self.rows // max(self.channels, 1)
        flat = flat.expand(self.rows, -1) if self.shared else flat.repeat(batch, 1)
        self.parameters = self.pad(flat)
        self.x = self.pad(x)
        self.blocks = self.x.shape[0] // self.lanes
        self.kernels = step_kernels(name, self.count, self.lanes, _DTYPES[x.dtype])

    def run(self, kernel: str, *arguments: Tensor) -> None:
        """Call a kernel on all rows; each thread has blocks of its own."""
        parts = useful(self.blocks, self.x.numel())
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

    def new(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """A tensor to be filled, and the rows a kernel fills: its own memory where no lane is
        padding. The tensor is no view, so that users may change it in place."""
        result = self.x.new_empty(like.shape)
        rows = result.view(self.rows, -1)
        if self.rows % self.lanes:
            rows = rows.new_empty(self.x.shape[0], rows.shape[1])
        return result, rows

    def fill(self, result: Tensor, rows: Tensor) -> Tensor:
        """The tensor of `new` once the kernel has run."""
        if self.rows % self.lanes:
            result.view(self.rows, -1).copy_(rows[: self.rows])
        return result

    def gradient(self, value: Tensor) -> Tensor:
        """Gradients of the parameters from those of each row."""
        value = value[: self.rows]
        if self.shared:
            return value.sum(0).reshape(self.parameter_shape)
        return value.reshape(-1, self.channels, self.count).sum(0).reshape(self.parameter_shape)


def _forward(
    name: str, x: Tensor, parameters: Tensor, state: Tensor, *, taped: bool
) -> tuple[Tensor, Tensor, list[Tensor], int]:
    """Output, next state, what the backward pass needs and the lanes of that."""
    if not x.numel():
        return x.new_empty(x.shape), state.clone(), [], 0
    rows = _Rows(name, x, parameters)
    y, y_rows = rows.new(x)
    following, following_rows = rows.new(state)
    tapes = len(_adjoint(name, rows.count).tape) if taped else 0
    tape = [x.new_empty(rows.blocks, x.shape[-1], tapes, rows.lanes)] if tapes else []
    rows.run(
        "taped" if taped else "forward",
        rows.x,
        rows.parameters,
        rows.pad(state),
        y_rows,
        *tape,
        following_rows,
    )
    rows.fill(y, y_rows)
    saved = []
    if taped and _reads_output(name, rows.count):
        # the result itself, so that torch notices if the user changes it before the backward pass
        saved.append(y_rows if rows.rows % rows.lanes else y)
    return y, rows.fill(following, following_rows), saved + tape, rows.lanes


def _backward(
    name: str,
    x: Tensor,
    parameters: Tensor,
    saved: list[Tensor],
    lanes: int,
    gy: Tensor,
    gstate: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    if not x.numel():
        return x.new_empty(x.shape), torch.zeros_like(parameters), gstate.clone()
    rows = _Rows(name, x, parameters, lanes)
    gx, gx_rows = rows.new(x)
    gstart, gstart_rows = rows.new(gstate)
    gp = torch.empty_like(rows.parameters)
    if _reads_output(name, rows.count):
        saved = [saved[0].view(rows.x.shape), *saved[1:]]
    rows.run(
        "backward",
        rows.x,
        rows.parameters,
        *saved,
        rows.pad(gy),
        rows.pad(gstate),
        gx_rows,
        gp,
        gstart_rows,
    )
    return rows.fill(gx, gx_rows), rows.gradient(gp), rows.fill(gstart, gstart_rows)


class _Recursion(torch.autograd.Function):
    """The eager path in training: the forward pass keeps its tape."""

    @staticmethod
    def forward(
        ctx: Any, name: str, x: Tensor, parameters: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        y, following, saved, lanes = _forward(name, x, parameters, state, taped=True)
        ctx.name, ctx.lanes = name, lanes
        ctx.save_for_backward(x, parameters, state, *saved)
        return y, following

    @staticmethod
    def backward(ctx: Any, gy: Tensor, gstate: Tensor) -> tuple[Tensor | None, ...]:
        x, parameters, state, *saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: somebody will differentiate this again
            return (None, *_plain_backward(ctx.name, x, parameters, state, gy, gstate))
        return (None, *_backward(ctx.name, x, parameters, saved, ctx.lanes, gy, gstate))


def _plain_backward(
    name: str, x: Tensor, parameters: Tensor, state: Tensor, gy: Tensor, gstate: Tensor
) -> tuple[Tensor, ...]:
    """Gradients that can be differentiated again, by the plain recursion; slow."""
    # views: what x itself was made of is the business of others
    inputs = [
        v.view_as(v) if v.requires_grad else v.detach().requires_grad_()
        for v in (x, parameters, state)
    ]
    results = _reference(SAMPLE_OPERATORS[name], *inputs)
    return torch.autograd.grad(
        results, inputs, (gy, gstate), create_graph=True, allow_unused=True, materialize_grads=True
    )


def register(operator: SampleOperator) -> None:
    """Make `torch.ops.microddsp.<name>` and its backward operator."""
    name = operator.name

    def forward(x: Tensor, coefficients: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if x.device.type != "cpu":
            return _reference(operator, x, coefficients, state)
        y, following, *_ = _forward(name, x, coefficients, state, taped=False)
        return y, following

    def backward(
        x: Tensor, coefficients: Tensor, state: Tensor, gy: Tensor, gstate: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if x.device.type != "cpu":
            with torch.enable_grad():
                leaves = [v.detach().requires_grad_() for v in (x, coefficients, state)]
                results = _reference(operator, *leaves)
            gradients = torch.autograd.grad(
                results, leaves, (gy, gstate), allow_unused=True, materialize_grads=True
            )
            return gradients[0], gradients[1], gradients[2]
        _, _, saved, lanes = _forward(name, x, coefficients, state, taped=True)
        return _backward(name, x, coefficients, saved, lanes, gy, gstate)

    one = torch.library.custom_op(f"microddsp::{name}", forward, mutates_args=())
    two = torch.library.custom_op(f"microddsp::{name}_backward", backward, mutates_args=())
    one.register_fake(
        lambda x, coefficients, state: (
            x.new_empty(x.shape),
            state.new_empty(state.shape),
        )
    )
    two.register_fake(
        lambda x, coefficients, state, gy, gstate: (
            x.new_empty(x.shape),
            coefficients.new_empty(coefficients.shape),
            state.new_empty(state.shape),
        )
    )

    def setup(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    def differentiate_op(ctx: Any, gy: Tensor, gstate: Tensor) -> Any:
        if torch.is_grad_enabled() and not traced(*ctx.saved_tensors):
            x, coefficients, state = ctx.saved_tensors
            return _plain_backward(name, x, coefficients, state, gy, gstate)
        return two(*ctx.saved_tensors, gy, gstate)

    one.register_autograd(differentiate_op, setup_context=setup)


def _reference(
    operator: SampleOperator, x: Tensor, coefficients: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    rank = operator.parameter_rank
    flat = coefficients.reshape(*coefficients.shape[: coefficients.dim() - rank], -1)
    step = operator.step(flat.shape[-1])
    y, following = reference.run(step, x, flat, state.reshape(*x.shape[:-1], -1))
    return y, following.reshape(state.shape)


def apply(name: str, x: Tensor, coefficients: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Run a sample-wise operator: differentiable in signal, parameters and initial state.

    Raises:
        SignalError: Shapes or types that do not fit together.
    """
    operator = SAMPLE_OPERATORS[name]
    check(operator, x, coefficients, state)
    if traced(x, coefficients, state):
        return getattr(torch.ops.microddsp, name)(x, coefficients, state)
    if x.device.type != "cpu" or transformed():
        return _reference(operator, x, coefficients, state)
    if torch.is_grad_enabled() and any(v.requires_grad for v in (x, coefficients, state)):
        return _Recursion.apply(name, x, coefficients, state)
    y, following, *_ = _forward(name, x, coefficients, state, taped=False)
    return y, following


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


def check(operator: SampleOperator, x: Tensor, coefficients: Tensor, state: Tensor) -> None:
    """Refuse what the kernels would misread.

    Raises:
        SignalError: See `apply`.
    """
    where = f"microddsp.{operator.name}"
    if x.dim() < 2:
        raise SignalError(
            f"a signal is (..., channels, samples), got {tuple(x.shape)}", where=where
        )
    if x.dtype not in _DTYPES:
        raise SignalError(f"a signal is float32 or float64, not {x.dtype}", where=where)
    for what, value in (("coefficients", coefficients), ("state", state)):
        if value.dtype != x.dtype or value.device != x.device:
            raise SignalError(
                f"{what} are {value.dtype} on {value.device}, "
                f"the signal is {x.dtype} on {x.device}",
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
