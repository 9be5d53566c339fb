"""FIR filter: y[n] = sum over k of taps[k] * x[n - k]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, conv_transpose1d
from torch.nn.grad import conv1d_weight

from microddsp.errors import ParameterError
from microddsp.relax_ops import delay_line
from microddsp.relax_ops.registry import (
    RelaxOperator,
    define,
    expect_shape,
    shape_of,
    signal_shape,
    signal_type,
)
from microddsp.relax_ops.torch_operator import call

if TYPE_CHECKING:
    from tvm import relax


def fir(x: Tensor, taps: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Filter x (..., channels, samples) with taps (K,) or (channels, K).

    The state (..., channels, K-1) holds the past input, oldest first. Returns (y like x, state).

    Raises:
        SignalError: x, or the state, has the wrong shape or type.
        ParameterError: The taps have the wrong shape.
    """
    _check(x, taps, state)
    y, new_state = call(_fir, x, taps, state)
    return y, new_state


def _check(x: Tensor, taps: Tensor, state: Tensor) -> None:
    delay_line.check_signal("fir", x)
    shared = taps.ndim == 1
    if not (shared or (taps.ndim == 2 and taps.shape[0] == x.shape[-2])) or taps.shape[-1] < 1:
        raise ParameterError(
            f"fir takes taps (K,) or (channels, K) for x {tuple(x.shape)}, got {tuple(taps.shape)}"
        )
    delay_line.check_same_type("fir", "taps", x, taps)
    delay_line.check_state("fir", x, state, taps.shape[-1] - 1)


def _rows(signal: Tensor, taps: Tensor) -> Tensor:
    """A signal as conv1d takes it: one row per channel if taps differ, else all rows alike."""
    rows = taps.shape[0] if taps.ndim == 2 else 1
    return signal.reshape(signal.shape[:-1].numel() // rows, rows, signal.shape[-1])


def _kernel(taps: Tensor) -> Tensor:
    return taps.reshape(-1, 1, taps.shape[-1]).flip(-1)


@torch.library.custom_op("microddsp::fir", mutates_args=())
def _fir(x: Tensor, taps: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    _check(x, taps, state)
    joined = delay_line.join(state, x)
    kernel = _kernel(taps)
    y = conv1d(_rows(joined, taps), kernel, groups=kernel.shape[0])
    return y.reshape(x.shape), delay_line.newest(joined, taps.shape[-1] - 1)


@_fir.register_fake
def _(x: Tensor, taps: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    _check(x, taps, state)
    return x.new_empty(x.shape), state.new_empty(state.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, y_grad: Tensor, state_grad: Tensor) -> tuple[Tensor | None, ...]:
    x, taps, state = ctx.saved_tensors
    kernel, groups = _kernel(taps), 1 if taps.ndim == 1 else taps.shape[0]
    rows = _rows(y_grad, taps)
    joined_grad = conv_transpose1d(rows, kernel, groups=groups).reshape(
        *x.shape[:-1], x.shape[-1] + state.shape[-1]
    )
    s_grad, x_grad = delay_line.join_backward(joined_grad, state_grad)
    taps_grad = None
    if ctx.needs_input_grad[1]:
        taps_grad = conv1d_weight(
            _rows(delay_line.join(state, x), taps), list(kernel.shape), rows, groups=groups
        )
        taps_grad = taps_grad.flip(-1).reshape(taps.shape)
    return x_grad, taps_grad, s_grad


_fir.register_autograd(_backward, setup_context=_setup_context)


# ---- device


def _type_rule(args: Sequence[relax.Expr]) -> relax.Type:
    from tvm import relax

    x, taps, state = args
    channels, samples = signal_shape("fir", x)
    length = shape_of("fir", "taps", taps)[-1:] or (0,)
    expect_shape("fir", "taps", taps, length, (channels, *length), dtype="float32")
    expect_shape("fir", "state", state, (channels, length[0] - 1), dtype="float32")
    return relax.TupleType([signal_type(channels, samples), state.ty])


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    import tvm

    from microddsp.relax_ops.choices import Made, call_of, choose
    from microddsp.relax_ops.fir_kernel import fir_kernel, mirror_of

    x, taps, state = node.args
    mirror = mirror_of(taps.value.numpy()) if isinstance(taps, tvm.ir.GenericConst) else 0
    channels, samples = (int(dim) for dim in x.ty.shape.values)
    shape = tuple(int(dim) for dim in taps.ty.shape.values)

    def make() -> Made:
        folded = mirror and choose("fold", ("yes", "no"), "yes") == "yes"
        return Made(fir_kernel(channels, samples, shape, mirror if folded else 0), (x, state, taps))

    return call_of(builder, make, "fir", [x.ty, state.ty])


define(RelaxOperator("fir", ("x", "taps", "state"), _type_rule, _legalize))
