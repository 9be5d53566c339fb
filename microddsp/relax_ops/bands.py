"""Weighted sums over the bins of each frame: filter banks, cosine transforms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from microddsp.errors import CompileError, ParameterError, SignalError
from microddsp.relax_ops.choices import Made, call_of, choose
from microddsp.relax_ops.delay_line import check_same_type
from microddsp.relax_ops.registry import (
    RelaxOperator,
    define,
    expect_shape,
    shape_of,
    signal_type,
)
from microddsp.relax_ops.torch_operator import call

if TYPE_CHECKING:
    from tvm import relax, tirx

_NAME = "bands"
# Products of one turn of the inner loop: its counter costs as much as one of them.
_LANES = 4
_TRIED_LANES = (1, 2, 3, 4, 6, 8)


def bands(x: Tensor, weights: Tensor) -> Tensor:
    """weights (bands, bins) times x (..., bins, frames): (..., bands, frames).

    On devices each band meets only the bins between its first and last weight that is not zero.

    Raises:
        SignalError: x is no (..., bins, frames) of float32 or float64.
        ParameterError: The weights are no (bands, bins), or of another number of bins.
    """
    _check(x, weights)
    y: Tensor = call(_bands, x, weights)
    return y


def _check(x: Tensor, weights: Tensor) -> None:
    if x.ndim < 2:
        raise SignalError(f"{_NAME} takes x (..., bins, frames), got {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64):
        raise SignalError(f"{_NAME} takes float32 or float64, got {x.dtype}")
    if weights.ndim != 2 or weights.shape[1] != x.shape[-2]:
        raise ParameterError(
            f"{_NAME} takes weights (bands, {x.shape[-2]}) for x {tuple(x.shape)}, "
            f"got {tuple(weights.shape)}"
        )
    check_same_type(_NAME, "weights", x, weights)


@torch.library.custom_op("microddsp::bands", mutates_args=())
def _bands(x: Tensor, weights: Tensor) -> Tensor:
    _check(x, weights)
    return (weights @ x).contiguous()


@_bands.register_fake
def _(x: Tensor, weights: Tensor) -> Tensor:
    _check(x, weights)
    return x.new_empty((*x.shape[:-2], weights.shape[0], x.shape[-1]))


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, y_grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weights = ctx.saved_tensors
    weights_grad = None
    if ctx.needs_input_grad[1]:
        weights_grad = (y_grad @ x.mT).reshape(-1, *weights.shape).sum(0)
    return weights.mT @ y_grad, weights_grad


_bands.register_autograd(_backward, setup_context=_setup_context)


# ---- device


@dataclass(frozen=True, slots=True)
class Runs:
    """The weights that are used, band after band, and for each band (first bin, turns of
    some at once, single ones after them)."""

    weights: np.ndarray
    spans: np.ndarray

    @property
    def singles(self) -> bool:
        return bool(self.spans[:, 2].any())


def runs_of(weights: np.ndarray, lanes: int = _LANES) -> Runs:
    """Cut zeros from both ends of each band, down to whole turns where the bins suffice."""
    kept, spans, bins = [], [], weights.shape[1]
    for row in weights:
        used = np.flatnonzero(row)
        first, end = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
        turns = -(-(end - first) // lanes)
        if turns * lanes <= bins:
            first = min(first, bins - turns * lanes)
            end = first + turns * lanes
        turns, single = divmod(end - first, lanes)
        kept.append(row[first:end])
        spans.append((first, turns, single))
    joined = np.concatenate(kept)
    # an array of no elements is no C
    joined = joined if joined.size else np.zeros(1, np.float32)
    return Runs(joined.astype(np.float32), np.array(spans, np.int16 if bins < 2**15 else np.int32))


def _type_rule(args: Sequence[relax.Expr]) -> relax.Type:
    x, weights = args
    shape = shape_of(_NAME, "x", x)
    if len(shape) < 2:
        raise CompileError(f"x must be (..., bins, frames), got {shape}", where=f"dsp.{_NAME}")
    expect_shape(_NAME, "x", x, shape, dtype="float32")
    count = (shape_of(_NAME, "weights", weights) or (0,))[0]
    expect_shape(_NAME, "weights", weights, (count, shape[-2]), dtype="float32")
    return signal_type(*shape[:-2], count, shape[-1])


def _kernel(shape: tuple[int, ...], runs: Runs, together: int) -> tirx.PrimFunc:
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    from microddsp.relax_ops.fft_kernel import rows

    *lead, _, frames = shape
    count = len(runs.spans)
    with IRBuilder() as builder, T.prim_func(private=True):
        T.func_name(_NAME)
        T.func_attr({"tirx.noalias": True})
        x = T.arg("x", tirx.decl_buffer(shape, "float32", "x"))
        weights = T.arg("weights", tirx.decl_buffer(runs.weights.shape, "float32", "weights"))
        spans = T.arg("spans", tirx.decl_buffer((count, 3), str(runs.spans.dtype), "spans"))
        y = T.arg("y", tirx.decl_buffer((*lead, count, frames), "float32", "y"))
        total = T.alloc_buffer((1,), "float32")
        # where the next weight and its bin are
        weight, bin_ = (T.alloc_buffer((1,), "int32") for _ in range(2))

        def meet(row: list[Any], m: Any, lanes: int) -> None:
            for i in range(lanes):
                product = weights[weight[0] + i] * x[(*row, bin_[0] + i, m)]
                T.buffer_store(total, total[0] + product, [0])
            T.buffer_store(weight, weight[0] + lanes, [0])
            T.buffer_store(bin_, bin_[0] + lanes, [0])

        def span(b: Any, i: int) -> Any:
            return T.bind(tirx.Cast("int32", spans[b, i]))

        with rows((*lead, frames)) as (*row, m):
            T.buffer_store(weight, tirx.IntImm("int32", 0), [0])
            with T.serial(0, count) as b:
                T.buffer_store(total, T.float32(0.0), [0])
                T.buffer_store(bin_, span(b, 0), [0])
                with T.serial(0, span(b, 1)):
                    meet(row, m, together)
                if runs.singles:
                    with T.serial(0, span(b, 2)):
                        meet(row, m, 1)
                T.buffer_store(y, total[0], [*row, b, m])
    return builder.get()


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The weights of bins that each lie in two neighbouring bands at most: for each bin from
    `first` on what it adds to the lower and to the upper band, and how many bins come before the
    lower band is complete, band after band; the first count is of those below all."""

    first: int
    weights: np.ndarray
    counts: np.ndarray


def neighbours_of(weights: np.ndarray) -> Neighbours | None:
    """Triangles and the like, whose bins are read once for both bands; None for other weights."""
    count = len(weights)
    used = np.flatnonzero(weights.any(0))
    if not used.size:
        return None
    first, upper = int(used[0]), 0
    pairs, counts = [], np.zeros(count + 1, np.int16)
    for k in range(first, int(used[-1]) + 1):
        mine = np.flatnonzero(weights[:, k])
        if mine.size:
            # the lower band is the one before the upper
            upper = max(upper, int(mine[-1]))
            if mine[0] < upper - 1:
                return None
        below, above = (weights[b, k] if 0 <= b < count else 0.0 for b in (upper - 1, upper))
        pairs.append((below, above))
        counts[upper] += 1
    return Neighbours(first, np.array(pairs, np.float32), counts)


def _neighbours_kernel(shape: tuple[int, ...], plan: Neighbours) -> tirx.PrimFunc:
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    from microddsp.relax_ops.fft_kernel import bind, rows

    *lead, _, frames = shape
    count = len(plan.counts) - 1
    with IRBuilder() as builder, T.prim_func(private=True):
        T.func_name(_NAME)
        T.func_attr({"tirx.noalias": True})
        x = T.arg("x", tirx.decl_buffer(shape, "float32", "x"))
        weights = T.arg("weights", tirx.decl_buffer(plan.weights.shape, "float32", "weights"))
        counts = T.arg("counts", tirx.decl_buffer(plan.counts.shape, "int16", "counts"))
        y = T.arg("y", tirx.decl_buffer((*lead, count, frames), "float32", "y"))
        below, above, carried = (T.alloc_buffer((1,), "float32") for _ in range(3))
        bin_ = T.alloc_buffer((1,), "int32")

        def meet(row: list[Any], m: Any, bins: Any, *, lower: bool) -> None:
            with T.serial(0, bins):
                value = bind(x[(*row, bin_[0] + plan.first, m)])
                if lower:
                    T.buffer_store(below, below[0] + weights[bin_[0], 0] * value, [0])
                T.buffer_store(above, above[0] + weights[bin_[0], 1] * value, [0])
                T.buffer_store(bin_, bin_[0] + 1, [0])

        with rows((*lead, frames)) as (*row, m):
            T.buffer_store(bin_, tirx.IntImm("int32", 0), [0])
            T.buffer_store(above, T.float32(0.0), [0])
            meet(row, m, int(plan.counts[0]), lower=False)
            with T.serial(0, count) as b:
                T.buffer_store(carried, above[0], [0])
                T.buffer_store(below, T.float32(0.0), [0])
                T.buffer_store(above, T.float32(0.0), [0])
                meet(row, m, bind(tirx.Cast("int32", counts[b + 1])), lower=True)
                T.buffer_store(y, carried[0] + below[0], [*row, b, m])
    return builder.get()


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    import tvm
    from tvm import relax

    x, weights = node.args
    if not isinstance(weights, tvm.ir.GenericConst):
        raise CompileError("the weights must be known when compiling", where=f"dsp.{_NAME}")
    shape, values = shape_of(_NAME, "x", x), weights.value.numpy()
    pairs = neighbours_of(values)

    def make() -> Made:
        few = pairs is not None and pairs.weights.size <= runs_of(values).weights.size
        usual = "neighbours" if few else "runs"
        layout = usual if pairs is None else choose("layout", ("neighbours", "runs"), usual)
        together = int(choose("lanes", _TRIED_LANES, _LANES))
        if pairs is not None and layout == "neighbours":
            kernel, tables = _neighbours_kernel(shape, pairs), (pairs.weights, pairs.counts)
        else:
            runs = runs_of(values, together)
            kernel, tables = _kernel(shape, runs, together), (runs.weights, runs.spans)
        return Made(kernel, (x, *(relax.const(t) for t in tables)))

    return call_of(builder, make, _NAME, node.ty)


define(RelaxOperator(_NAME, ("x", "weights"), _type_rule, _legalize))
