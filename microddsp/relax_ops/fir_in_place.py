"""The FIR filter on the device, its samples read where they are: a tile of outputs after another.

Where whole tiles fill a block, the samples that a tile takes in at one turn (as many as it has
outputs) lie either all in the block or all in the past. So each turn needs only to know where its
samples begin, and nothing is copied but the next state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from microddsp.relax_ops.convolution_kernel import loop
from microddsp.relax_ops.copy import emit_copy
from microddsp.relax_ops.either import Place, either

_Read = Callable[[int], Any]


def emit_in_place(buffers: dict[str, Any], c: Any, width: int) -> None:
    """All outputs and the next state of channel `c`; the block is a multiple of `width`.

    `buffers` are x and y (channels, samples), state and next (channels, taps - 1), and taps. The
    next state may lie where the state is.
    """
    x, state, following = buffers["x"], buffers["state"], buffers["next"]
    samples, past = int(x.shape[1]), int(state.shape[1])
    with loop(samples // width) as m:
        _Tile(buffers, c, m, width).emit()
    kept = max(past - samples, 0)
    # Forward, in pieces as long as the way that they go: old and new place of a piece lie apart.
    pieces, left = divmod(kept, samples)
    if pieces:
        with loop(pieces) as i:
            emit_copy(following, [c, i * samples], state, [c, (i + 1) * samples], samples)
    at = pieces * samples
    emit_copy(following, [c, at], state, [c, at + samples], left)
    emit_copy(following, [c, kept], x, [c, samples - (past - kept)], past - kept)


class _Tile:
    """Outputs `m * width` and following. The taps that are no whole turn come first, as straight
    code; the window of samples is a ring."""

    def __init__(self, buffers: dict[str, Any], c: Any, m: Any, width: int) -> None:
        from tvm.script.ir_builder import tirx as T

        self.x, self.state, self.y = (buffers[name] for name in ("x", "state", "y"))
        self.taps, self.c, self.m, self.width = buffers["taps"], c, m, width
        self.length = int(self.taps.shape[-1])
        self.straight = (self.length - 1) % width + 1
        self.sums, self.window = (T.alloc_buffer((width,), "float32") for _ in range(2))

    def emit(self) -> None:
        from tvm.script.ir_builder import tirx as T

        width, straight = self.width, self.straight
        turns = (self.length - straight) // width
        self._oldest(-turns - 1)
        read = self._turn(-turns)
        for i in range(straight - 1, width - 1):
            T.buffer_store(self.window, read(i - (straight - 1)), [i])
        for j in range(straight):
            self._step(j, j % width, read(j + width - straight), first=j == 0)
        if turns:
            with loop(turns) as g:
                read = self._turn(g + (1 - turns))
                for i in range(width):
                    j = g * width + (straight + i)
                    self._step(j, (straight + i) % width, read(i))
        for u in range(width):
            T.buffer_store(self.y, self.sums[u], [self.c, self.m * width + u])

    def _oldest(self, turn: int) -> None:
        """The first samples of the window: fewer than a turn, and none if one tap is straight."""
        from tvm.script.ir_builder import tirx as T

        count = self.straight - 1

        def fill(place: Place) -> None:
            for i in range(count):
                T.buffer_store(self.window, _number(place, i), [i])

        inside, (new, old) = self._inside(turn), self._places(turn, self.width - count)
        if isinstance(inside, bool):
            fill(new if inside else old)
        elif count:
            with T.If(inside):
                with T.Then():
                    fill(new)
                with T.Else():
                    fill(old)

    def _turn(self, turn: Any) -> _Read:
        """The samples so many turns after the beginning of the tile."""
        inside, (new, old) = self._inside(turn), self._places(turn)
        if isinstance(inside, bool):
            return lambda i: _number(new if inside else old, i)
        some = either(inside, new, old, self.width)
        return lambda i: some[i]

    def _inside(self, turn: Any) -> Any:
        """Whether they are in the block: known, or a condition."""
        if isinstance(turn, int) and turn >= 0:
            return True
        return self.m + turn >= 0

    def _places(self, turn: Any, first: int = 0) -> tuple[Place, Place]:
        """Where they begin without the `first` ones, if they are in the block and if not."""
        start = (self.m + turn) * self.width + first
        return (self.x, [self.c, start]), (self.state, [self.c, start + (self.length - 1)])

    def _step(self, j: Any, at: int, newest: Any, *, first: bool = False) -> None:
        """All sums meet tap `j`, counted from the last; the window begins at `at`."""
        from tvm.script.ir_builder import tirx as T

        width, window = self.width, self.window
        T.buffer_store(window, newest, [(at + width - 1) % width])
        k = (self.length - 1) - j
        tap = T.bind(self.taps[k] if len(self.taps.shape) == 1 else self.taps[self.c, k])
        for u in range(width):
            product = tap * window[(at + u) % width]
            T.buffer_store(self.sums, product if first else self.sums[u] + product, [u])


def _number(place: Place, i: int) -> Any:
    """The i-th number from a place on."""
    buffer, index = place
    return buffer[(*index[:-1], index[-1] + i)]
