"""The largest of the last samples, at about three comparisons a sample whatever their number.

The samples come in segments as long as the window. A window is the end of the last segment, whose
largest values from each place to its end are known, and the start of the present one.

Source: M. van Herk, "A fast algorithm for local minimum and maximum filters on rectangular and
octagonal kernels", Pattern Recognition Letters 13 (1992).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from microddsp.errors import CompileError, SignalError
from microddsp.relax_ops.registry import (
    RelaxOperator,
    define,
    expect_shape,
    shape_of,
    signal_shape,
    signal_type,
)
from microddsp.relax_ops.torch_operator import traced, transformed

if TYPE_CHECKING:
    from tvm import relax, tirx

# Above and below all samples; a state whose sum is not finite would be taken for broken.
HUGE = 1e30
# Behind the samples of a segment: the largest of the present segment, the place in it.
_EXTRA = 2


def state_width(width: int) -> int:
    """Numbers in the state of one channel."""
    return width + _EXTRA


def unknown_past(width: int) -> Tensor:
    """The state at the start: as if everything before were larger than any sample."""
    return torch.tensor([HUGE] * width + [-HUGE, 0.0])


def moving_max(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """max(x[n - width + 1], ..., x[n]); a NaN among them counts for nothing.

    Args:
        x: (..., channels, samples), float32 or float64.
        state: (..., channels, width + 2), see `unknown_past`.

    Returns:
        The largest values, like x, and the state after the last sample. No gradient: what asks
        where a signal peaks decides.

    Raises:
        SignalError: Shapes or types that do not fit together.
    """
    where = "microddsp.moving_max"
    if x.dim() < 2 or x.dtype not in (torch.float32, torch.float64):
        raise SignalError(
            f"a signal is (..., channels, samples) of float32 or float64, got {tuple(x.shape)} of "
            f"{x.dtype}",
            where=where,
        )
    if (
        state.dtype != x.dtype
        or state.shape[:-1] != x.shape[:-1]
        or state.shape[-1] < state_width(1)
    ):
        raise SignalError(
            f"the state must be {(*x.shape[:-1], 'width + 2')} of {x.dtype}, got "
            f"{tuple(state.shape)} of {state.dtype}",
            where=where,
        )
    x, state = x.detach(), state.detach()
    if traced(x, state):
        y, following = torch.ops.microddsp.moving_max(x, state)
        return y, following
    return _plain(x, state) if transformed() else _run(x, state)


def _run(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The kernel on the CPU, plain torch elsewhere."""
    if x.device.type != "cpu" or not x.numel():
        return _plain(x, state)
    rows = math.prod(x.shape[:-1])
    y, following = x.new_empty(rows, x.shape[-1]), state.new_empty(rows, state.shape[-1])
    _compiled(str(x.dtype).removeprefix("torch."))(
        x.reshape(rows, -1).contiguous(), state.reshape(rows, -1).contiguous(), y, following
    )
    return y.reshape(x.shape), following.reshape(state.shape)


def _plain(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The same in torch operations; all rows stand at the same place of their segments."""
    *ring, top, place = state.unbind(-1)
    outputs = []
    for sample in x.unbind(-1):
        at = int(place.flatten()[0])
        top = torch.where(sample > top, sample, top)
        known = ring[at + 1] if at + 1 < len(ring) else top
        outputs.append(torch.where(known > top, known, top))
        ring[at] = sample
        place = place + 1
        if at + 1 == len(ring):
            for i in range(at - 1, -1, -1):
                ring[i] = torch.where(ring[i + 1] > ring[i], ring[i + 1], ring[i])
            top, place = torch.full_like(top, -HUGE), torch.zeros_like(place)
    y = torch.stack(outputs, -1) if outputs else x.clone()
    return y, torch.stack([*ring, top, place], -1)


_moving_max = torch.library.custom_op("microddsp::moving_max", _run, mutates_args=())


@_moving_max.register_fake
def _(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), state.new_empty(state.shape)


# ---- one kernel for host and device


def _kernel(
    rows: Any, samples: Any, total: Any, dtype: str = "float32", scope: str = "global"
) -> tirx.PrimFunc:
    """`(x, state, y, next state)`, rows by rows; `total` numbers in the state of one. Registers
    are of scope "local" on the host, "global" for the device's code generator."""
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    width = total - _EXTRA
    with IRBuilder() as builder, T.prim_func(private=True):
        T.func_name("moving_max")
        T.func_attr({"tirx.noalias": True, "microddsp.inplace": [[3, 1]]})
        x, state, y, ring = (
            T.arg(name, tirx.decl_buffer((rows, columns), dtype, name))
            for name, columns in (("x", samples), ("state", total), ("y", samples), ("next", total))
        )
        with T.serial(0, rows) as row:
            with T.serial(0, total) as i:
                T.buffer_store(ring, state[row, i], [row, i])
            top = T.alloc_buffer((1,), dtype, scope=scope)
            place = T.alloc_buffer((1,), "int32", scope=scope)
            T.buffer_store(top, ring[row, width], [0])
            T.buffer_store(place, tirx.Cast("int32", ring[row, width + 1]), [0])
            with T.serial(0, samples) as n:
                sample, at = T.bind(x[row, n]), T.bind(place[0])
                with T.If(sample > top[0]), T.Then():
                    T.buffer_store(top, sample, [0])
                T.buffer_store(y, top[0], [row, n])
                T.buffer_store(ring, sample, [row, at])
                with T.If(at + 1 < tirx.Cast("int32", width)):
                    with T.Then():
                        with T.If(ring[row, at + 1] > top[0]), T.Then():
                            T.buffer_store(y, ring[row, at + 1], [row, n])
                        T.buffer_store(place, at + 1, [0])
                    with T.Else():
                        with T.serial(0, width - 1) as back:
                            i = width - 2 - back
                            with T.If(ring[row, i + 1] > ring[row, i]), T.Then():
                                T.buffer_store(ring, ring[row, i + 1], [row, i])
                        T.buffer_store(top, tirx.FloatImm(dtype, -HUGE), [0])
                        T.buffer_store(place, 0, [0])
            T.buffer_store(ring, top[0], [row, width])
            T.buffer_store(ring, tirx.Cast(dtype, place[0]), [row, width + 1])
    return builder.get()


@cache
def _compiled(dtype: str) -> Callable[..., None]:
    from microddsp.relax_ops.kernel_cache import load, named_key

    def build() -> Any:
        import tvm
        from tvm import tirx

        rows, samples, total = (tirx.Var(name, "int64") for name in ("rows", "samples", "total"))
        kernel = _kernel(rows, samples, total, dtype, "local").with_attr(
            "global_symbol", "moving_max"
        )
        return tvm.IRModule({"moving_max": kernel})

    found: Callable[..., None] = load(named_key("moving_max", dtype), build)["moving_max"]
    return found


def _type_rule(args: Sequence[relax.Expr]) -> relax.Type:
    from tvm import relax

    x, state = args
    channels, samples = signal_shape("moving_max", x)
    total = shape_of("moving_max", "state", state)[-1:] or (0,)
    if total[0] < state_width(1):
        raise CompileError("a window has at least one sample", where="dsp.moving_max")
    expect_shape("moving_max", "state", state, (channels, *total), dtype="float32")
    return relax.TupleType([signal_type(channels, samples), state.ty])


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    from tvm import relax

    x, state = node.args
    channels, samples = (int(dim) for dim in x.ty.shape.values)
    made = _kernel(channels, samples, int(state.ty.shape.values[1]))
    kernel = builder.add_func(made, "moving_max")
    return relax.call_tir(kernel, [x, state], out_ty=[x.ty, state.ty])


define(RelaxOperator("moving_max", ("x", "state"), _type_rule, _legalize))
