"""Event counter with hysteresis and refractory time: one integer machine for all.

Training, host and device run the same TIR. In registers the machine keeps the sample number from
which it may fire again instead of a wait that is counted down: the common path (armed, below the
threshold) is one comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from microddsp.errors import ParameterError, SignalError
from microddsp.relax_ops.threads import side_by_side, spans, useful
from microddsp.relax_ops.torch_operator import traced, transformed

if TYPE_CHECKING:
    from tvm import tirx

MAX_REFRACTORY_SAMPLES = 2**30


def load_registers(state: tirx.Buffer, row: Any, registers: tirx.Buffer, base: int) -> None:
    """Start of a block: armed, ready (relative to the block's first sample), count."""
    from tvm.script.ir_builder import tirx as T

    for i in range(3):
        T.buffer_store(registers, state[row, i], [base + i])


def store_registers(
    state: tirx.Buffer, row: Any, registers: tirx.Buffer, base: int, samples: Any
) -> None:
    """End of a block of `samples`: what is left of the wait goes to the state."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    ready = registers[base + 1]
    left = tirx.Select(ready > samples, ready - samples, tirx.IntImm("int32", 0))
    T.buffer_store(state, registers[base], [row, 0])
    T.buffer_store(state, left, [row, 1])
    T.buffer_store(state, registers[base + 2], [row, 2])


def emit_event_counter(
    x: Any,
    n: Any,
    high: Any,
    low: Any,
    refractory_samples: Any,
    registers: tirx.Buffer,
    base: int,
    event: tuple[tirx.Buffer, int] | None,
) -> None:
    """One sample of the machine as TIR statements.

    `x`, `high`, `low` are float values, `n` the int32 number of the sample in its block; `event`
    is a buffer and index that gets 1.0 when the machine fires.
    """
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    if isinstance(n, int):
        n = tirx.IntImm("int32", n)
    with T.If(tirx.NE(registers[base], tirx.IntImm("int32", 0))):
        with T.Then():
            with (
                T.If(tirx.GT(x, high)),
                T.Then(),
                T.If(tirx.GE(n, registers[base + 1])),
                T.Then(),
            ):
                T.buffer_store(registers, registers[base + 2] + 1, [base + 2])
                T.buffer_store(registers, 0, [base])
                T.buffer_store(registers, n + (1 + refractory_samples), [base + 1])
                if event is not None:
                    buffer, index = event
                    T.buffer_store(buffer, tirx.FloatImm(str(buffer.dtype), 1.0), [index])
        with T.Else(), T.If(tirx.LT(x, low)), T.Then():
            T.buffer_store(registers, 1, [base])


def _kernel(dtype: str) -> Any:
    """`(x, thresholds, state, refractory, events, next_state)`, rows by rows."""
    import tvm
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    rows, samples = tirx.Var("rows", "int64"), tirx.Var("samples", "int64")

    def argument(name: str, shape: tuple[Any, ...], kind: str) -> tirx.Buffer:
        return T.arg(name, tirx.decl_buffer(shape, kind, name))

    with IRBuilder() as builder, T.prim_func():
        T.func_name("count")
        x = argument("x", (rows, samples), dtype)
        thresholds = argument("thresholds", (rows, 2), dtype)
        state = argument("state", (rows, 3), "int32")
        refractory = argument("refractory", (1,), "int32")
        events = argument("events", (rows, samples), dtype)
        following = argument("following", (rows, 3), "int32")
        with T.serial(0, rows) as row:
            registers = T.alloc_buffer((3,), "int32", scope="local")
            event = T.alloc_buffer((1,), dtype, scope="local")
            load_registers(state, row, registers, 0)
            with T.serial(0, samples) as n:
                T.buffer_store(event, tirx.FloatImm(dtype, 0.0), [0])
                emit_event_counter(
                    T.bind(x[row, n]),
                    tirx.Cast("int32", n),
                    thresholds[row, 0],
                    thresholds[row, 1],
                    refractory[0],
                    registers,
                    0,
                    (event, 0),
                )
                T.buffer_store(events, event[0], [row, n])
            store_registers(following, row, registers, 0, tirx.Cast("int32", samples))
    return tvm.IRModule({"count": builder.get().with_attr("global_symbol", "count")})


@cache
def _compiled(dtype: str) -> Callable[..., None]:
    from microddsp.relax_ops.kernel_cache import load, named_key

    found: Callable[..., None] = load(named_key("event_counter", dtype), lambda: _kernel(dtype))[
        "count"
    ]
    return found


def _run(
    x: Tensor, thresholds: Tensor, state: Tensor, refractory_samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The compiled machine on the CPU, the plain one elsewhere."""
    if x.device.type != "cpu" or not x.numel():
        return _plain(x, thresholds, state, refractory_samples)
    samples = x.shape[-1]
    rows = math.prod(x.shape[:-1])
    flat = thresholds.expand(*x.shape[:-1], 2).reshape(rows, 2).contiguous()
    events = x.new_empty(rows, samples)
    following = state.new_empty(rows, 3)
    kernel = _compiled(str(x.dtype).removeprefix("torch."))
    signals = x.reshape(rows, samples).contiguous()
    before = state.reshape(rows, 3).contiguous()
    refractory = torch.tensor([refractory_samples], dtype=torch.int32)

    def count(first: int, last: int) -> None:
        own = slice(first, last)
        kernel(signals[own], flat[own], before[own], refractory, events[own], following[own])

    parts = useful(rows, x.numel())
    side_by_side([partial(count, *span) for span in spans(rows, parts)])
    following = following.reshape(state.shape)
    return following[..., 2:].clone(), events.reshape(x.shape), following


def _plain(
    x: Tensor, thresholds: Tensor, state: Tensor, refractory_samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The same machine in torch operations, for other devices."""
    armed, wait, count = state.unbind(-1)
    high, low = thresholds[..., 0], thresholds[..., 1]
    events = []
    for sample in x.unbind(-1):
        fire = (armed != 0) & (sample > high) & (wait == 0)
        rearm = (armed == 0) & (sample < low)
        wait = torch.where(fire, refractory_samples, (wait - 1).clamp(min=0)).to(state.dtype)
        armed = torch.where(fire, 0, torch.where(rearm, 1, armed)).to(state.dtype)
        count = count + fire.to(state.dtype)
        events.append(fire.to(x.dtype))
    signal = torch.stack(events, -1) if events else x.clone()
    following = torch.stack([armed, wait, count], -1)
    return following[..., 2:].clone(), signal, following


_event_counter = torch.library.custom_op("microddsp::event_counter", _run, mutates_args=())


@_event_counter.register_fake
def _(
    x: Tensor, thresholds: Tensor, state: Tensor, refractory_samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        state.new_empty((*state.shape[:-1], 1)),
        x.new_empty(x.shape),
        state.new_empty(state.shape),
    )


def event_counter(
    x: Tensor, thresholds: Tensor, state: Tensor, refractory_samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Count upward crossings of a threshold.

    At each sample: fire if armed, above the threshold and not waiting; a waiting machine waits
    one sample less; firing disarms and starts the wait; a disarmed machine arms when the signal
    is below the release threshold. It starts disarmed.

    Args:
        x: (..., channels, samples), float32 or float64.
        thresholds: (2,) as threshold, release threshold in units of x, or (channels, 2).
        state: int32 (..., channels, 3): armed, samples to wait, count.
        refractory_samples: Samples after an event in which none can follow.

    Returns:
        The count after the last sample (int32, (..., channels, 1)), a signal that is 1 at events
        and 0 elsewhere, and the state. None of them has a gradient.

    Raises:
        SignalError: Shapes or types that do not fit together.
        ParameterError: A refractory time below zero or above 2**30 samples.
    """
    where = "microddsp.event_counter"
    if not 0 <= refractory_samples <= MAX_REFRACTORY_SAMPLES:
        raise ParameterError(f"refractory_samples is {refractory_samples}", where=where)
    if x.dim() < 2 or x.dtype not in (torch.float32, torch.float64):
        raise SignalError(
            f"a signal is (..., channels, samples) of float32 or float64, got "
            f"{tuple(x.shape)} of {x.dtype}",
            where=where,
        )
    if thresholds.dtype != x.dtype or tuple(thresholds.shape) not in ((2,), (x.shape[-2], 2)):
        raise SignalError(
            f"thresholds are (2,) or (channels, 2) of {x.dtype}, got "
            f"{tuple(thresholds.shape)} of {thresholds.dtype}",
            where=where,
        )
    if state.dtype != torch.int32 or tuple(state.shape) != (*x.shape[:-1], 3):
        raise SignalError(
            f"the state is int32 {(*x.shape[:-1], 3)}, got {tuple(state.shape)} of {state.dtype}",
            where=where,
        )
    x, thresholds = x.detach(), thresholds.detach()
    if traced(x, thresholds, state):
        return torch.ops.microddsp.event_counter(x, thresholds, state, refractory_samples)
    if transformed():
        return _plain(x, thresholds, state, refractory_samples)
    return _run(x, thresholds, state, refractory_samples)
