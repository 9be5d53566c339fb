"""A compiled model on a board: built, started, fed block by block, timed."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from microddsp.errors import BoardError
from microddsp.micro.boards import Board, find_board
from microddsp.micro.platforms.project import build_project, create_project, read_project
from microddsp.micro.rpc.link import Link, qemu_command
from microddsp.signature import Signature, TensorSpec
from microddsp.streams import join_blocks, split_blocks

if TYPE_CHECKING:
    import torch

    from microddsp.micro.package.model import CompiledModel

    Array = np.ndarray | torch.Tensor

# Blocks that one request times: bounds how long the device is silent.
_TIMED_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Timing:
    """Time of one block, over all blocks given.

    On an emulator `instructions` are exact and the same on every run, and `ticks` and `seconds`
    follow from them: 2**icount_shift ns an instruction. Instructions are not cycles.
    """

    board: str
    blocks: int
    instructions_min: int
    instructions_median: float
    instructions_max: int
    ticks_median: float
    tick_hz: int
    seconds_median: float
    instructions_per_sample: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class FunctionTime:
    """Instructions of one function in one block, and its share of the block."""

    name: str
    instructions: float
    share: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Remote:
    """Functions of the firmware, and tensors in the device's memory for one block."""

    process: Any
    reset: Any
    time_blocks: Any
    stack_high_water: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


class BoardSession:
    """Firmware that runs. `session` is TVM's own `RPCSession` with the functions `process`,
    `reset`, `time_blocks` and `stack_high_water`; its calls are not protected against signals
    and other threads, those of this class are.

    Close it, or use it as a context manager: no process is left then. In a forked child it is
    closed, and goes on in the parent.
    """

    def __init__(
        self, board: Board, signature: Signature, image: Path, *, timeout_s: float = 5.0
    ) -> None:
        """Start a board with a firmware.

        Raises:
            BoardError: A tool or the firmware is missing.
            LinkError: The device does not come up, or has no memory for a block.
        """
        self.board = board
        self.signature = signature
        # A whole signal at a time: blocks of two signals would mix in the model's state.
        self._lock = threading.RLock()
        self._link = Link(qemu_command(board, image), timeout_s, image)
        try:
            self._link.call(self._prepare)
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        find = self._link.session.get_function
        self._link.hold(
            _Remote(
                find("process"),
                find("reset"),
                find("time_blocks"),
                find("stack_high_water"),
                tuple(self._empty(spec) for spec in self.signature.inputs),
                tuple(self._empty(spec) for spec in self.signature.outputs),
            )
        )
        self._remote.reset()

    def _empty(self, spec: TensorSpec) -> Any:
        import tvm

        return tvm.runtime.empty(spec.shape, spec.dtype, device=self._link.device)

    @property
    def _remote(self) -> _Remote:
        remote: _Remote = self._link.given
        return remote

    @property
    def session(self) -> Any:
        """The `tvm.rpc.RPCSession`.

        Raises:
            BoardError: The session is closed.
        """
        self._check_open()
        return self._link.session

    def _check_open(self) -> None:
        if self._link.closed:
            raise BoardError("the session with the board is closed", where=self.board.name)

    def run(self, *inputs: Array, tail: str = "error") -> Any:
        """Reset the model and stream signals (channels, samples) through it, block by block.

        Returns what the pipeline's forward returns, as numpy arrays or, for torch inputs, tensors.

        Raises:
            SignalError: The signals do not fit the model.
            LinkError: The device stopped or reports an error; a status is named.
            DeviceTimeoutError: It did not answer in time.
        """
        blocks = split_blocks(self.signature, inputs, tail)
        with self._lock:
            self.reset()
            outputs = [self._link.call(self._run_block, block) for block in blocks]
        return join_blocks(self.signature, outputs, like=inputs)

    def _run_block(self, block: Sequence[np.ndarray]) -> list[np.ndarray]:
        remote = self._remote
        for tensor, array in zip(remote.inputs, block, strict=True):
            tensor.copyfrom(array)
        remote.process(*remote.inputs, *remote.outputs)
        return [tensor.numpy() for tensor in remote.outputs]

    def reset(self) -> None:
        """Forget the signal seen so far."""
        with self._lock:
            self._check_open()
            self._link.call(self._remote.reset)

    def time(self, *inputs: Array, tail: str = "error") -> Timing:
        """Reset the model and time every block of the signals on the device.

        The call of `process` is part of the time, copying tensors is not.

        Raises:
            SignalError: The signals do not fit the model.
            LinkError: The device stopped or reports an error.
        """
        blocks = split_blocks(self.signature, inputs, tail)
        ticks: list[int] = []
        overhead = 0
        with self._lock:
            self.reset()
            at_once = self._blocks_at_once()
            for i in range(0, len(blocks), at_once):
                more, overhead = self._link.call(self._time_some, blocks[i : i + at_once])
                ticks += more
        empty = self.board.instructions(overhead)
        counts = sorted(self.board.instructions(t) - empty for t in ticks)
        middle = float(median(counts))
        return Timing(
            board=self.board.name,
            blocks=len(counts),
            instructions_min=counts[0],
            instructions_median=middle,
            instructions_max=counts[-1],
            ticks_median=float(median(ticks)) - overhead,
            tick_hz=self.board.clock_hz,
            seconds_median=middle * 2**self.board.qemu.icount_shift * 1e-9,
            instructions_per_sample=middle / max(self.signature.block, 1),
        )

    def _time_some(self, blocks: Sequence[Sequence[np.ndarray]]) -> tuple[list[int], int]:
        import tvm

        device = self._link.device
        inputs = [
            tvm.runtime.tensor(np.stack([block[i] for block in blocks]), device)
            for i in range(len(self.signature.inputs))
        ]
        ticks = tvm.runtime.empty((len(blocks),), "int32", device=device)
        overhead = int(self._remote.time_blocks(*inputs, *self._remote.outputs, ticks))
        return [int(t) for t in ticks.numpy().view(np.uint32)], overhead

    def _blocks_at_once(self) -> int:
        free = int(self._link.call(lambda: self._link.device.available_global_memory) or 0)
        each = sum(spec.nbytes for spec in self.signature.inputs) + 64
        return max(1, min(_TIMED_AT_ONCE, free // 2 // each))

    def profile(self, *inputs: Array, tail: str = "error") -> tuple[FunctionTime, ...]:
        """Where the time of a block goes. The whole of `process` is one function here: kernels
        are inlined into it, and no counter separates them.

        Raises:
            SignalError: The signals do not fit the model.
            LinkError: The device stopped or reports an error.
        """
        timing = self.time(*inputs, tail=tail)
        name = f"{self.signature.name}_process"
        return (FunctionTime(name, timing.instructions_median, 1.0),)

    def stack_bytes(self) -> int:
        """Stack that `process` really uses for a block of what was last sent; resets the model.

        Raises:
            LinkError: The device stopped or reports an error.
        """
        with self._lock:
            self.reset()
            remote = self._remote
            used = self._link.call(remote.stack_high_water, *remote.inputs, *remote.outputs)
            self.reset()
        return int(used)

    def close(self) -> None:
        """End the session; may be called again."""
        with self._lock:
            self._link.close()

    def __enter__(self) -> BoardSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_board(
    board: str | Board = "mps2-an386",
    model: CompiledModel | None = None,
    *,
    timeout_s: float = 5.0,
) -> BoardSession:
    """Build firmware with the model in it, start the board and open a session with it.

    Args:
        board: A name from `microddsp boards`.
        model: What `compile` or `load` gave, for the board's processor.
        timeout_s: The device must answer every call within this, or it is stopped.

    Raises:
        BoardError: The board is unknown or has another processor, or a tool is missing.
        LinkError: The device does not come up.
    """
    if model is None:
        raise BoardError("open_board needs a model", hint="open_board(board, model)")
    chosen = find_board(board) if isinstance(board, str) else board
    with tempfile.TemporaryDirectory(prefix="microddsp-") as folder:
        create_project(folder, model, chosen)
        image = build_project(folder)
        # The emulator has read the image once it answers: the folder may go.
        return BoardSession(chosen, model.signature, image, timeout_s=timeout_s)


def open_project(directory: str | Path, *, timeout_s: float = 5.0) -> BoardSession:
    """Start the firmware of a project folder.

    Raises:
        BoardError: No project, or it is not built.
        LinkError: The device does not come up.
    """
    project = read_project(directory)
    return BoardSession(project.board, project.signature, project.image, timeout_s=timeout_s)
