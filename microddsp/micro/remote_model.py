"""One model of a firmware, as the host uses it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from microddsp.errors import BoardError, LinkError
from microddsp.micro.boards import Board
from microddsp.micro.rpc.link import Link
from microddsp.micro.timing import FunctionTime, Timing
from microddsp.signature import Signature, TensorSpec
from microddsp.streams import join_blocks, refused_setting, setting, split_blocks

if TYPE_CHECKING:
    import torch

    Array = np.ndarray | torch.Tensor

# Bytes of arguments that a device takes in one call, without the descriptions of tensors.
_ARGUMENT_BYTES = 1400
_OF_AN_ARGUMENT = 32
# Blocks that one request times: bounds how long the device is silent.
_TIMED_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class _Remote:
    """Functions of the firmware, and tensors in the device's memory for one block."""

    process: Any
    process_bytes: Any
    reset: Any
    time_blocks: Any
    profile_blocks: Any
    stack_high_water: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    room: Any
    setters: dict[str, Any]


class RemoteModel:
    """A model on a board. It ends with its session."""

    def __init__(
        self,
        board: Board,
        link: Link,
        lock: threading.RLock,
        signature: Signature,
        *,
        prefix: str = "",
        pieces: Sequence[str] = (),
    ) -> None:
        """`prefix` is that of the functions' names, `pieces` what a profile tells, if built for."""
        self.board = board
        self.signature = signature
        self.pieces = tuple(pieces)
        self._link = link
        # A whole signal at a time: blocks of two signals would mix in the model's state.
        self._lock = lock
        self._sent: Sequence[np.ndarray] = ()
        link.call(self._prepare, prefix)

    def _prepare(self, prefix: str) -> None:
        find = self._link.session.get_function
        self._number = self._link.hold(
            _Remote(
                find(f"{prefix}process"),
                find(f"{prefix}process_bytes"),
                find(f"{prefix}reset"),
                find(f"{prefix}time_blocks"),
                find(f"{prefix}profile_blocks"),
                find(f"{prefix}stack_high_water"),
                tuple(self._empty(spec) for spec in self.signature.inputs),
                tuple(self._empty(spec) for spec in self.signature.outputs),
                self._room(),
                {t.name: find(f"{prefix}set_{t.name}") for t in self.signature.tunables},
            )
        )
        self._remote.reset()

    def _empty(self, spec: TensorSpec) -> Any:
        import tvm

        return tvm.runtime.empty(spec.shape, spec.dtype, device=self._link.device)

    def _room(self) -> Any:
        """Where the outputs of a call with bytes lie; None if a block is too long for that."""
        import tvm

        wanted = sum(spec.nbytes + _OF_AN_ARGUMENT for spec in self.signature.inputs)
        if wanted > _ARGUMENT_BYTES:
            return None
        nbytes = sum(_padded(spec) for spec in self.signature.outputs)
        return tvm.runtime.empty((nbytes,), "uint8", device=self._link.device)

    @property
    def _remote(self) -> _Remote:
        remote: _Remote = self._link.held(self._number)
        return remote

    def check_open(self) -> None:
        if self._link.closed:
            raise BoardError("the session with the board is closed", where=self.board.name)

    def run(self, *inputs: Array, tail: str = "error") -> Any:
        """Reset the model and stream signals (channels, samples) through it, block by block.

        Returns what the pipeline's forward returns, as numpy arrays or, for torch inputs, tensors.

        Raises:
            SignalError: The signals do not fit the model.
            LinkError: The device stopped or reports an error; a status is named.
            DeviceFaultError: The model's code failed; the message names function and line.
            DeviceTimeoutError: It did not answer in time.
        """
        blocks = split_blocks(self.signature, inputs, tail)
        with self._lock:
            self.reset()
            outputs = [self._link.call(self._run_block, block) for block in blocks]
        return join_blocks(self.signature, outputs, like=inputs)

    def _run_block(self, block: Sequence[np.ndarray]) -> list[np.ndarray]:
        remote = self._remote
        self._sent = block
        if remote.room is not None:
            data = remote.process_bytes(*(array.tobytes() for array in block), remote.room)
            return self._cut(bytearray(data))
        self._copy_inputs()
        remote.process(*remote.inputs, *remote.outputs)
        return [tensor.numpy() for tensor in remote.outputs]

    def _copy_inputs(self) -> None:
        for tensor, array in zip(self._remote.inputs, self._sent, strict=True):
            tensor.copyfrom(array)

    def _cut(self, data: bytearray) -> list[np.ndarray]:
        """The outputs of a call with bytes."""
        outputs = []
        at = 0
        for spec in self.signature.outputs:
            array = np.frombuffer(data, spec.dtype, count=spec.elements, offset=at)
            outputs.append(array.reshape(spec.shape))
            at += _padded(spec)
        return outputs

    def set(self, name: str, value: float | Sequence[float] | Array) -> None:
        """Change a tunable number on the device; `reset`, and so `run`, leaves it.

        Raises:
            ParameterError: No such number, another shape, or a value that its setter refuses.
            LinkError: The device stopped.
        """
        values = setting(self.signature, name, value)
        with self._lock:
            self.check_open()
            try:
                self._link.call(self._set, name, values)
            except LinkError as error:
                if f"{self.signature.name.upper()}_ERR_RANGE" not in error.message:
                    raise
                raise refused_setting(name, values, self.board.name) from error

    def _set(self, name: str, values: np.ndarray) -> None:
        import tvm

        self._remote.setters[name](tvm.runtime.tensor(values, self._link.device))

    def reset(self) -> None:
        """Forget the signal seen so far."""
        with self._lock:
            self.check_open()
            self._link.call(self._remote.reset)

    def time(self, *inputs: Array, tail: str = "error") -> Timing:
        """Reset the model and time every block of the signals on the device.

        The call of `process` is part of the time, copying tensors is not.

        Raises:
            SignalError: The signals do not fit the model.
            LinkError: The device stopped or reports an error.
        """
        ticks, overhead = self._ticks(inputs, tail)
        counts = sorted(self._counts(ticks, overhead))
        middle = float(median(counts))
        return Timing(
            board=self.board.name,
            blocks=len(counts),
            unit=self.board.unit,
            count_min=counts[0],
            count_median=middle,
            count_max=counts[-1],
            ticks_median=float(median(ticks)) - overhead,
            tick_hz=self.board.clock_hz,
            seconds_median=self.board.seconds(middle),
            count_per_sample=middle / max(self.signature.block, 1),
        )

    def time_blocks(self, *inputs: Array, tail: str = "error") -> list[int]:
        """What `time` counts, for one block after the other.

        Raises:
            SignalError: The signals do not fit the model.
            LinkError: The device stopped or reports an error.
        """
        return self._counts(*self._ticks(inputs, tail))

    def _ticks(self, inputs: Sequence[Array], tail: str) -> tuple[list[int], int]:
        """Ticks of each block, those of an empty one in them, and the latter."""
        blocks = split_blocks(self.signature, inputs, tail)
        ticks: list[int] = []
        overhead = 0
        with self._lock:
            self.reset()
            at_once = self._blocks_at_once(4)
            for i in range(0, len(blocks), at_once):
                more, overhead = self._link.call(self._time_some, blocks[i : i + at_once])
                ticks += more
        return ticks, overhead

    def _counts(self, ticks: Sequence[int], overhead: int) -> list[int]:
        empty = self.board.count(overhead)
        return [self.board.count(t) - empty for t in ticks]

    def _time_some(self, blocks: Sequence[Sequence[np.ndarray]]) -> tuple[list[int], int]:
        import tvm

        ticks = tvm.runtime.empty((len(blocks),), "int32", device=self._link.device)
        overhead = int(
            self._remote.time_blocks(*self._stacked(blocks), *self._remote.outputs, ticks)
        )
        return [int(t) for t in ticks.numpy().view(np.uint32)], overhead

    def _stacked(self, blocks: Sequence[Sequence[np.ndarray]]) -> list[Any]:
        import tvm

        return [
            tvm.runtime.tensor(np.stack([block[i] for block in blocks]), self._link.device)
            for i in range(len(self.signature.inputs))
        ]

    def _blocks_at_once(self, tick_bytes: int) -> int:
        free = int(self._link.call(lambda: self._link.device.available_global_memory) or 0)
        each = sum(spec.nbytes for spec in self.signature.inputs) + tick_bytes + 64
        return max(1, min(_TIMED_AT_ONCE, free // 2 // each))

    def profile(self, *inputs: Array, tail: str = "error") -> tuple[FunctionTime, ...]:
        """Where the time of a block goes: each kernel in the order of calls, then the rest of
        `process` (checks of pointers and states). The parts sum up to what a block takes.

        In a firmware that is not built for a profile all of `process` is one part.

        Raises:
            SignalError: The signals do not fit the model.
            LinkError: The device stopped or reports an error.
        """
        name = f"{self.signature.name}_process"
        if not self.pieces:
            t = self.time(*inputs, tail=tail)
            return (FunctionTime(name, t.unit, t.count_min, t.count_median, t.count_max, 1.0),)
        blocks = split_blocks(self.signature, inputs, tail)
        parts: list[list[int]] = []
        with self._lock:
            self.reset()
            at_once = self._blocks_at_once(4 * (len(self.pieces) + 2))
            for i in range(0, len(blocks), at_once):
                parts += self._link.call(self._profile_some, blocks[i : i + at_once])
        names = (*self.pieces, f"rest of {name}")
        columns = list(zip(*parts, strict=True))
        medians = [float(median(column)) for column in columns]
        whole = sum(medians) or 1.0
        return tuple(
            FunctionTime(n, self.board.unit, min(c), m, max(c), m / whole)
            for n, c, m in zip(names, columns, medians, strict=True)
        )

    def _profile_some(self, blocks: Sequence[Sequence[np.ndarray]]) -> list[list[int]]:
        import tvm

        marks = len(self.pieces) + 1
        shape = (len(blocks) + 1, marks + 1)
        ticks = tvm.runtime.empty(shape, "int32", device=self._link.device)
        self._remote.profile_blocks(*self._stacked(blocks), *self._remote.outputs, ticks)
        rows = ticks.numpy().view(np.uint32).tolist()
        # The counter runs on while it is read: differences of exact times are exact.
        at = [[self.board.count(int(t)) for t in row] for row in rows]
        *times, overheads = at
        nothing, first, second = overheads[:3]
        a_mark = second - first
        found = []
        for row in times:
            kernels = [max(0, row[i + 1] - row[i] - a_mark) for i in range(marks - 1)]
            rest = row[-1] - nothing - marks * a_mark - sum(kernels)
            found.append([*kernels, max(0, rest)])  # a clock may be coarser than a kernel is long
        return found

    def stack_bytes(self) -> int:
        """Stack that `process` really uses for a block of what was last sent; resets the model.

        Raises:
            LinkError: The device stopped or reports an error.
        """
        with self._lock:
            self.reset()
            remote = self._remote
            if self._sent:
                self._link.call(self._copy_inputs)
            used = self._link.call(remote.stack_high_water, *remote.inputs, *remote.outputs)
            self.reset()
        return int(used)


def _padded(spec: TensorSpec) -> int:
    """Bytes of a tensor, and those to the next one."""
    return -(-spec.nbytes // 8) * 8
