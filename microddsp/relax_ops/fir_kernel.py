"""The FIR filter on the device: neighbouring outputs together, samples sliding through registers.

A tile of outputs shares every load of a tap; each step of the taps loads one new sample, which
takes the register of the oldest.

The first outputs of a block look at the past. Where whole tiles fill the block, samples are read
where they are (fir_in_place.py). Else the first outputs read from a copy of past and present, made
for them; the block itself is never copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microddsp.relax_ops.choices import choose
from microddsp.relax_ops.copy import emit_copy
from microddsp.relax_ops.fir_in_place import emit_in_place

if TYPE_CHECKING:
    from tvm import tirx

_Buffers = dict[str, Any]


# Sums and windows of so many outputs fit into 32 registers, in the order of their merit.
_WIDTHS = (8, 10, 9, 7, 6, 5)


def _tile_width(samples: int, mirror: int) -> int:
    """Folded taps have two windows and products; others best fill the block."""
    usual = 7 if mirror else next((w for w in _WIDTHS if samples % w == 0), _WIDTHS[0])
    return int(choose("width", (2, 4, 5, 6, 7, 8, 9, 10, 12), usual))


@dataclass(frozen=True, slots=True)
class _Dot:
    """y[first + i] = sum over j of taps[length - 1 - j] * source[start + i + j]."""

    source: Any
    lead: tuple[Any, ...]
    start: int
    first: int
    count: int
    width: int
    mirror: int = 0


def mirror_of(taps: np.ndarray) -> int:
    """1 if the taps are the same backwards (linear phase), -1 if with the other sign, else 0."""
    if taps.shape[-1] > 1:
        for sign in (1, -1):
            if np.array_equal(taps, sign * taps[..., ::-1]):
                return sign
    return 0


def fir_kernel(
    channels: int, samples: int, taps_shape: tuple[int, ...], mirror: int = 0
) -> tirx.PrimFunc:
    """(x, state, taps) to (y, next state), all of one block.

    Taps are (length,) or (channels, length), the states (channels, length - 1), oldest first. With
    `mirror`, from `mirror_of`, two samples of the same tap are added before the product.
    """
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    past = taps_shape[-1] - 1
    width = _tile_width(samples, mirror)
    with IRBuilder() as builder, T.prim_func(private=True):
        T.func_name("fir")
        T.func_attr({"tirx.noalias": True, "microddsp.inplace": [[4, 1]]})
        buffers = {
            name: T.arg(name, tirx.decl_buffer(shape, "float32", name))
            for name, shape in (
                ("x", (channels, samples)),
                ("state", (channels, past)),
                ("taps", taps_shape),
                ("y", (channels, samples)),
                ("next", (channels, past)),
            )
        }
        with T.serial(0, channels) as c:
            if not mirror and samples % width == 0:
                emit_in_place(buffers, c, width)
            else:
                _emit_joined(buffers, c, width, mirror)
    return builder.get()


def _emit_joined(buffers: _Buffers, c: Any, width: int, mirror: int) -> None:
    """The first outputs read from the state and the samples behind it, joined."""
    from tvm.script.ir_builder import tirx as T

    x, state, following = buffers["x"], buffers["state"], buffers["next"]
    samples, past = int(x.shape[1]), int(state.shape[1])
    head = min(samples, -(-past // width) * width)  # outputs that look at the state
    joined = T.alloc_buffer((max(past + head, 1),), "float32")
    # In this order: the next state may lie where the state is.
    emit_copy(joined, [0], state, [c, 0], past)
    emit_copy(joined, [past], x, [c, 0], head)
    if samples >= past:
        emit_copy(following, [c, 0], x, [c, samples - past], past)
    _emit(buffers, c, _Dot(joined, (), 0, 0, head, width, mirror), short=head < samples)
    _emit(buffers, c, _Dot(x, (c,), head - past, head, samples - head, width, mirror))
    if samples < past:
        emit_copy(following, [c, 0], joined, [samples], past)


def _emit(buffers: _Buffers, c: Any, dot: _Dot, *, short: bool = False) -> None:
    """All outputs of a dot product: whole tiles in a loop, then a smaller one."""
    from tvm.script.ir_builder import tirx as T

    width = dot.width
    tiles, left = divmod(dot.count, width)
    if tiles == 1:
        _tile(buffers, c, dot, 0, width, short)
    elif tiles:
        with T.serial(0, tiles) as m:
            _tile(buffers, c, dot, m * width, width, short)
    if left:
        _tile(buffers, c, dot, tiles * width, left, short=short or tiles > 0)


def _tile(buffers: _Buffers, c: Any, dot: _Dot, at: Any, width: int, short: bool) -> None:
    """One tile. `short` code starts from zeros; long code has a first turn that needs none."""
    from tvm.script.ir_builder import tirx as T

    taps, y, mirror = buffers["taps"], buffers["y"], dot.mirror
    length = int(taps.shape[-1])
    sums = T.alloc_buffer((width,), "float32")
    early = T.alloc_buffer((width,), "float32")
    late: Any = T.alloc_buffer((width,), "float32") if mirror else None

    def sample(i: Any) -> Any:
        return dot.source[(*dot.lead, at + (i + dot.start))]

    def step(j: Any, turn: int, *, first: bool = False, alone: bool = False) -> None:
        """All outputs of the tile meet one tap, or two of equal size; `turn` is where the windows
        begin."""
        T.buffer_store(early, sample(j + (width - 1)), [(turn + width - 1) % width])
        pair = mirror and not alone
        if pair:
            T.buffer_store(late, sample((length - 1) - j), [-turn % width])
        k = (length - 1) - j
        tap = T.bind(taps[k] if len(taps.shape) == 1 else taps[c, k])
        for u in range(width):
            heard = early[(turn + u) % width]
            if pair:
                other = late[(u - turn) % width]
                heard = heard + other if mirror > 0 else heard - other
            T.buffer_store(sums, tap * heard if first else sums[u] + tap * heard, [u])

    for i in range(width - 1):
        T.buffer_store(early, sample(i), [i])
        if mirror:
            T.buffer_store(late, sample(length + i), [i + 1])
    if short:
        for u in range(width):
            T.buffer_store(sums, T.float32(0.0), [u])
    steps = length // 2 if mirror else length
    # Straight code as long as it takes for the rest to be whole turns of the windows.
    straight = steps % width if short else (steps - 1) % width + 1
    for j in range(straight):
        step(j, j % width, first=j == 0 and not short)
    turns = (steps - straight) // width
    if turns:
        with T.serial(0, turns) as g:
            for i in range(width):
                step(g * width + (straight + i), (straight + i) % width)
    if mirror and length % 2:
        step(steps, steps % width, alone=True)
    for u in range(width):
        T.buffer_store(y, sums[u], [c, at + (u + dot.first)])
