"""Convolution over time on the device: a tile of channels and times in registers.

Every load of a weight serves all times of the tile, every load of a sample all its channels, and
what follows (bias, rectifier, mean over time) is done before a result leaves the registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from microddsp.relax_ops.choices import choose

if TYPE_CHECKING:
    from tvm import tirx

# Longer filters are a loop over their taps: straight code would be too long.
STRAIGHT_TAPS = 12
# Channels, times and sums of a tile that are worth a try.
_HIGH, _WIDE, _SUMS = (1, 2, 4, 8), (1, 2, 4, 6, 8, 12, 16), 32
_LONGEST_STRAIGHT = 32


@dataclass(frozen=True, slots=True)
class Convolution:
    """y[r, t] = bias[r] + sum of weight[r, i, k] * x[i, t * stride + k * dilation] over k and the
    channels i of r's group.

    `length` is that of a row of x: past or padding is part of it. `lead` and `trail` zeros surround
    each row of y, for a next convolution that pads. With `mean` the result is one number a row.
    With `twice` what is rectified comes out twice as large: half of the next weights undo that.
    """

    rows: int
    per_group: int
    taps: int
    length: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    relu: bool = False
    mean: bool = False
    lead: int = 0
    trail: int = 0
    twice: bool = False

    @property
    def outputs(self) -> int:
        return (self.length - (self.taps - 1) * self.dilation - 1) // self.stride + 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result."""
        if self.mean:
            return (self.rows,)
        return (self.rows, self.lead + self.outputs + self.trail)

    @property
    def divisor(self) -> float:
        """What makes a mean of the sums."""
        return float(self.outputs * (2 if self.relu else 1))

    def tile(
        self, name: str = "tile", fits: Callable[[int], bool] = lambda _: True
    ) -> tuple[int, int]:
        """Channels and times at once: sixteen sums fill half of a single-precision unit. `name` is
        that of the choice, `fits` says of other numbers of times whether they can be."""
        rows = self.rows // self.groups
        # Neighbouring times share their samples only where nothing is skipped.
        wide = 8 if self.stride == self.dilation == 1 else 4
        high = next(h for h in (16 // wide, 2, 1) if rows % h == 0)
        wide = min(wide, self.outputs)
        tried = [
            f"{h}x{w}"
            for h in _HIGH
            for w in _WIDE
            if rows % h == 0 and w <= self.outputs and h * w <= _SUMS and fits(w)
        ]
        chosen = str(choose(name, tried, f"{high}x{wide}"))
        high, wide = (int(size) for size in chosen.split("x"))
        return high, wide


def convolution_kernel(spec: Convolution, name: str) -> tirx.PrimFunc:
    """(x, weight, bias) to y, all of one block."""
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    high, wide = spec.tile()
    order = "channels" if spec.mean else choose("outer", ("channels", "times"), "channels")
    rows = spec.rows // spec.groups
    shapes = {
        "x": (spec.per_group * spec.groups, spec.length),
        "weight": (spec.rows, spec.per_group, spec.taps),
        "bias": (spec.rows,),
        "y": spec.shape,
    }
    with IRBuilder() as builder, T.prim_func(private=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        buffers = {n: T.arg(n, tirx.decl_buffer(s, "float32", n)) for n, s in shapes.items()}
        tiles, left = divmod(spec.outputs, wide)

        @contextmanager
        def some_rows() -> Iterator[Rows]:
            with loop(spec.groups) as g, loop(rows // high) as j:
                yield Rows(spec, buffers, g, g * rows + j * high, high)

        if order == "channels":
            with some_rows() as work:
                work.begin()
                with loop(tiles) as m:
                    work.tile(m * wide, wide)
                if left:
                    work.tile(tiles * wide, left)
                work.end()
        else:
            with some_rows() as work:
                work.begin()
                work.end()
            with loop(tiles) as m, some_rows() as work:
                work.tile(m * wide, wide)
            if left:
                with some_rows() as work:
                    work.tile(tiles * wide, left)
    return builder.get()


def straight_taps(spec: Convolution) -> bool:
    """Whether all taps of a channel are straight code, not a loop."""
    usual = "straight" if spec.taps <= STRAIGHT_TAPS else "loop"
    if spec.taps == 1 or spec.taps > _LONGEST_STRAIGHT:
        return usual == "straight"
    return bool(choose("taps", ("straight", "loop"), usual) == "straight")


def twice(value: Any) -> Any:
    """Two times the rectified value: exact, and no comparison, which costs a copy of the flags.

    A NaN stays one; an infinity below zero, which only an overflow makes, becomes one.
    """
    from tvm import tirx

    return value + tirx.call_intrin("float32", "tirx.fabs", value)


@contextmanager
def loop(count: int) -> Iterator[Any]:
    """A loop, or no loop where there is one turn."""
    from tvm.script.ir_builder import tirx as T

    if count == 1:
        yield 0
        return
    with T.serial(0, count) as i:
        yield i


class Rows:
    """Code for `high` neighbouring rows of the result."""

    def __init__(
        self, spec: Convolution, buffers: dict[str, Any], group: Any, first: Any, high: int
    ) -> None:
        self.spec, self.buffers, self.high = spec, buffers, high
        self.group, self.first = group, first
        self.straight = straight_taps(spec)
        self.means: Any = None

    def begin(self) -> None:
        self.begin_means()
        self.zeros(0, self.spec.lead)

    def begin_means(self, anew: Any = True) -> None:
        """Sums for the means: from zero if `anew`, else from what is in the result."""
        from tvm import tirx
        from tvm.script.ir_builder import tirx as T

        if self.spec.mean:
            self.means = T.alloc_buffer((self.high,), "float32")
            for r in range(self.high):
                value = T.float32(0.0)
                if anew is not True:
                    value = tirx.if_then_else(anew, value, self.buffers["y"][self.first + r])
                T.buffer_store(self.means, value, [r])

    def keep_means(self) -> None:
        """Sums so far go to the result."""
        from tvm.script.ir_builder import tirx as T

        if self.spec.mean:
            for r in range(self.high):
                T.buffer_store(self.buffers["y"], self.means[r], [self.first + r])

    def end(self) -> None:
        from tvm.script.ir_builder import tirx as T

        self.zeros(self.spec.lead + self.spec.outputs, self.spec.trail)
        if self.spec.mean:
            count = T.float32(self.spec.divisor)
            for r in range(self.high):
                T.buffer_store(self.buffers["y"], self.means[r] / count, [self.first + r])

    def zeros(self, start: int, count: int) -> None:
        from tvm.script.ir_builder import tirx as T

        if count:
            for r in range(self.high):
                with loop(count) as i:
                    T.buffer_store(self.buffers["y"], T.float32(0.0), [self.first + r, i + start])

    def tile(self, at: Any, wide: int, to: Any = None) -> None:
        """Times `at` to `at + wide` of x, to `to` in a row of y if that is another place."""
        from tvm import tirx
        from tvm.script.ir_builder import tirx as T

        to = at + self.spec.lead if to is None else to
        spec, x, weight, y = self.spec, *(self.buffers[n] for n in ("x", "weight", "y"))
        sums = T.alloc_buffer((self.high * wide,), "float32")
        cells = [(r, u, r * wide + u) for r in range(self.high) for u in range(wide)]
        for r in range(self.high):
            bias = T.bind(self.buffers["bias"][self.first + r])
            for u in range(wide):
                T.buffer_store(sums, bias, [r * wide + u])

        def meet(i: Any, k: Any) -> None:
            weights = [T.bind(weight[self.first + r, i, k]) for r in range(self.high)]
            channel = self.group * spec.per_group + i
            # Time by time: GCC then moves fewest sums from register to register.
            for r, u, cell in sorted(cells, key=lambda c: (c[1], -c[0])):
                sample = x[channel, (at + u) * spec.stride + k * spec.dilation]
                T.buffer_store(sums, sums[cell] + weights[r] * sample, [cell])

        with loop(spec.per_group) as i:
            if self.straight:
                for k in range(spec.taps):
                    meet(i, k)
            else:
                with T.serial(0, spec.taps) as k:
                    meet(i, k)
        for r, u, cell in cells:
            value = sums[cell]
            if spec.mean:
                value = twice(value) if spec.relu else value
                T.buffer_store(self.means, self.means[r] + value, [r])
                continue
            if spec.relu and spec.twice:
                value = twice(value)
            elif spec.relu:  # a NaN is not below zero: it stays
                value = tirx.Select(value < T.float32(0.0), T.float32(0.0), value)
            T.buffer_store(y, value, [self.first + r, to + u])
