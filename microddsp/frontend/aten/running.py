"""Running sums, products and extremes along an axis: one pass, what is carried in registers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import fx
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from microddsp.frontend.aten.loops import (
    Converter,
    Kind,
    Value,
    argument,
    cast,
    emit_kernel,
    is_nan,
    kind_of,
    over,
)

# (sample, registers, position) -> new registers; the first is the result
Step = Callable[[Value, list[Value], Value], list[Value]]


def _sum(x: Value, held: list[Value], _at: Value) -> list[Value]:
    """With what each addition rounds off in a sum of its own: torch sums in double precision."""
    if str(x.ty) != "float32":
        return [tirx.Add(held[0], x)]
    _, total, lost = held
    following = T.bind(tirx.Add(total, x))
    share = T.bind(tirx.Sub(following, total))  # Knuth's two-sum
    rest = tirx.Add(tirx.Sub(total, tirx.Sub(following, share)), tirx.Sub(x, share))
    rest = T.bind(rest)
    # infinity minus itself is nothing that got lost
    rest = tirx.Select(is_nan(rest), tirx.const(0.0, "float32"), rest)
    lost = T.bind(tirx.Add(lost, rest))
    return [tirx.Add(following, lost), following, lost]


def _product(x: Value, held: list[Value], _at: Value) -> list[Value]:
    return [tirx.Mul(held[0], x)]


def _log_sum(x: Value, held: list[Value], _at: Value) -> list[Value]:
    high = T.bind(tirx.call_pure_extern("float32", "microddsp_max", held[0], x))
    low = T.bind(tirx.call_pure_extern("float32", "microddsp_min", held[0], x))
    apart = tirx.call_pure_extern("float32", "expf", tirx.Sub(low, high))
    more = tirx.call_pure_extern("float32", "log1pf", apart)
    # equal ones may be infinite, and have no difference
    more = tirx.Select(tirx.EQ(low, high), tirx.const(math.log(2.0), "float32"), more)
    return [tirx.Add(high, more)]


def _extreme(compare: Callable[[Value, Value], Value]) -> Step:
    """The latest of equal ones; once there was a NaN, the latest NaN."""

    def step(x: Value, held: list[Value], at: Value) -> list[Value]:
        newer = compare(x, held[0])
        if str(x.ty) == "float32":
            newer = tirx.Or(newer, is_nan(x))
        newer = T.bind(newer)
        return [
            tirx.Select(newer, x, held[0]),
            tirx.Select(newer, tirx.Cast("int64", at), held[1]),
        ]

    return step


def _running(name: str, step: Step, starts: Callable[[str], list[tuple[float, str]]]) -> Converter:
    """`starts` gives value and type of each register; what is left of the first sample is kept."""

    def convert(node: fx.Node, importer: Any) -> Any:
        value = node.meta["val"]
        several = isinstance(value, tuple | list)
        results: list[Kind] = [kind_of(v) for v in (value if several else [value])]
        shape, dtype = results[0]
        x = cast(importer, argument(node, importer, 0), dtype)
        axis = int(argument(node, importer, 1, "dim")) % max(len(shape), 1)

        def body(source: Value, *targets: Value) -> None:
            registers = [
                (T.alloc_buffer((1,), kind), tirx.const(start, kind))
                for start, kind in starts(dtype)
            ]
            before, after = shape[:axis], shape[axis + 1 :]

            def along(index: list[Value]) -> None:
                for buffer, start in registers:
                    T.buffer_store(buffer, start, [0])
                with T.serial(0, shape[axis]) as i:
                    at = [*index[:axis], i, *index[axis:]]
                    sample = T.bind(source[tuple(at)])
                    held = [T.bind(buffer[0]) for buffer, _ in registers]
                    following = [T.bind(v) for v in step(sample, held, i)]
                    for (buffer, _), v in zip(registers, following, strict=True):
                        T.buffer_store(buffer, v, [0])
                    for target, v in zip(targets, following, strict=False):
                        T.buffer_store(target, v, at)

            over((*before, *after), along)

        return emit_kernel(importer, name, [x], results, body)

    return convert


def _lowest(dtype: str) -> float | int:
    if dtype == "float32":
        return -math.inf
    bits = int(dtype.removeprefix("u").removeprefix("int"))
    return 0 if dtype.startswith("u") else -(2 ** (bits - 1))


def _highest(dtype: str) -> float | int:
    if dtype == "float32":
        return math.inf
    bits = int(dtype.removeprefix("u").removeprefix("int"))
    return 2**bits - 1 if dtype.startswith("u") else 2 ** (bits - 1) - 1


RUNNING: dict[str, Converter] = {
    "cumsum.default": _running("cumsum", _sum, lambda d: [(0, d)] * (3 if d == "float32" else 1)),
    "cumprod.default": _running("cumprod", _product, lambda d: [(1, d)]),
    "logcumsumexp.default": _running("logcumsumexp", _log_sum, lambda d: [(-math.inf, d)]),
    "cummax.default": _running(
        "cummax", _extreme(tirx.GE), lambda d: [(_lowest(d), d), (0, "int64")]
    ),
    "cummin.default": _running(
        "cummin", _extreme(tirx.LE), lambda d: [(_highest(d), d), (0, "int64")]
    ),
}
