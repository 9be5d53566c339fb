"""Delays on the device: one tap of one, or a few anywhere in the past.

Delays are numbers in the code: which outputs read the past and which the block is known, so no
loop asks. The past moves along by a block at a time, which costs its length over the block's for
each sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tvm import tirx


def delay_kernel(block: int, taps: np.ndarray, offsets: np.ndarray, length: int) -> tirx.PrimFunc:
    """(x, state) to (y, next state), for taps (channels, count), offsets (channels,) and a state
    of `length` samples of each channel, oldest first."""
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    channels, count = taps.shape
    alike = bool((taps == taps[:1]).all() and (offsets == offsets[:1]).all())
    with IRBuilder() as builder, T.prim_func(private=True):
        T.func_name("delay")
        T.func_attr({"tirx.noalias": True, "microddsp.inplace": [[3, 1]]})
        shapes = {"x": block, "state": length, "y": block, "next": length}
        x, past, y, following = (
            T.arg(name, tirx.decl_buffer((channels, size), "float32", name))
            for name, size in shapes.items()
        )

        def channel(c: Any, weights: np.ndarray, offset: int) -> None:
            def tap(n: Any, j: int, inside: bool) -> Any:
                value = x[c, n - (offset + j)] if inside else past[c, n + (length - offset - j)]
                return value if weights[j] == 1 else value * T.float32(float(weights[j]))

            def output(n: Any, inside: Sequence[bool]) -> None:
                total = tap(n, 0, inside[0])
                for j in range(1, count):
                    total = total + tap(n, j, inside[j])
                T.buffer_store(y, total, [c, n])

            first, last = min(offset, block), min(offset + count - 1, block)
            if first:
                with T.serial(0, first) as n:
                    output(n, [False] * count)
            for n in range(first, last):
                output(n, [n >= offset + j for j in range(count)])
            if last < block:
                with T.serial(0, block - last) as n:
                    output(n + last, [True] * count)
            kept = max(length - block, 0)
            if kept:  # in this order: the next state may lie where the state is
                with T.serial(0, kept) as i:
                    T.buffer_store(following, past[c, i + block], [c, i])
            if length:
                with T.serial(0, length - kept) as i:
                    T.buffer_store(following, x[c, i + (block - length + kept)], [c, i + kept])

        if alike and channels > 1:
            with T.serial(0, channels) as c:
                channel(c, taps[0], int(offsets[0]))
        else:
            for c in range(channels):
                channel(c, taps[c], int(offsets[c]))
    return builder.get()
