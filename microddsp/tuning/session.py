"""Tuning a pipeline: all kernels in turns, until the budget is spent."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microddsp.errors import BoardError, ParameterError, nearest
from microddsp.micro.boards import Board, boards, find_board
from microddsp.micro.targets import Target, find_target
from microddsp.tuning.database import Records, compilers_of
from microddsp.tuning.measure import METRICS, MODELLED, Bench, Values
from microddsp.tuning.remote import Boards, check_boards
from microddsp.tuning.search import Search

if TYPE_CHECKING:
    import torch

    from microddsp.tuning.task import Task

# Every candidate runs on so many sets of values.
SETS = 2


@dataclass(frozen=True, slots=True)
class TunedKernel:
    """What the trials of a kernel came to, those of earlier sessions with them."""

    name: str
    key: str
    default: float
    best: float
    trials: int
    failed: int
    best_number: int
    choices: dict[str, Any]
    ended: str

    @property
    def gain(self) -> float:
        """How many times the default the best one is; 1 where nothing was better."""
        return self.default / self.best if self.best else 1.0


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a session came to. `new_trials` were measured in it."""

    metric: str
    board: str
    target: str
    kernels: tuple[TunedKernel, ...]
    new_trials: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "kernels": [asdict(k) | {"gain": round(k.gain, 4)} for k in self.kernels],
        }


@dataclass(frozen=True, slots=True)
class Progress:
    """Told after each batch."""

    kernel: str
    done: int
    wanted: int
    best: float
    default: float
    seconds: float
    seconds_left: float | None


def tune(
    module: torch.nn.Module,
    example_inputs: torch.Tensor | Sequence[torch.Tensor],
    *,
    records: str | Path,
    target: str | Target = "cortex-m4f",
    board: str | Board | None = None,
    tasks: str = "all",
    metric: str = "cycles",
    trials: int = 64,
    seed: int = 0,
    early_stop: int | None = None,
    max_time_s: float | None = None,
    timeout_s: float = 20.0,
    tracker: str | None = None,
    key: str | None = None,
    boards_at_once: int = 2,
    progress: Callable[[Progress], object] | None = None,
    **compile_options: Any,
) -> Tuning:
    """Search faster (or smaller) code for the kernels of a pipeline by measuring it.

    Every trial is written to `records` at once; a session that ends early goes on where it was
    when it is called again. `compile(..., tuning_records=...)` takes the best ones.

    Args:
        module: As for `compile`, with the same `compile_options`.
        example_inputs: As for `compile`.
        records: The folder of the trials; made if it is not there.
        target: A name from `microddsp targets`.
        board: Where it is measured; an emulated one of the target if None.
        tasks: "all", or numbers as `tuning_tasks` gives them: "0,2-5".
        metric: "cycles" (modelled on an emulator), "instructions" or "size". A farm's emulated
            boards have no cycles.
        trials: Of each kernel, those of earlier sessions and the default with them.
        seed: The same one gives the same sequence of candidates.
        early_stop: A kernel is done after so many trials without a better one.
        max_time_s: The session is done after that.
        timeout_s: No start of an emulator, or call of a board, takes longer.
        tracker: "HOST:PORT" of a farm: measure on its boards, `boards_at_once` of them.
        key: Which ones; by default those called as the board.
        progress: Called after each batch.

    Raises:
        ParameterError: An option makes no sense.
        RecordError: The records cannot be used, or another session has them.
        BoardError: A board or a tool is missing.
        CompileError: As `compile`.
    """
    from microddsp.tuning.task import tuning_tasks

    _check(trials=trials, early_stop=early_stop, max_time_s=max_time_s, timeout_s=timeout_s)
    chosen = find_target(target) if isinstance(target, str) else target
    device = _board(board, chosen)
    farm = f"rpc://{tracker}/{key or device.name}?board={device.name}" if tracker else None
    _check_metric(metric, device, farm)
    found = tuning_tasks(module, example_inputs, target=chosen, **compile_options)
    return tune_tasks(
        select(found, tasks),
        records=records,
        board=device,
        metric=metric,
        trials=trials,
        seed=seed,
        early_stop=early_stop,
        max_time_s=max_time_s,
        timeout_s=timeout_s,
        progress=progress,
        farm=farm,
        boards_at_once=boards_at_once,
    )


def tune_tasks(
    tasks: Sequence[Task],
    *,
    records: str | Path,
    board: Board,
    metric: str = "cycles",
    trials: int = 64,
    seed: int = 0,
    early_stop: int | None = None,
    max_time_s: float | None = None,
    timeout_s: float = 20.0,
    progress: Callable[[Progress], object] | None = None,
    farm: str | None = None,
    boards_at_once: int = 2,
    batch: int = 32,
) -> Tuning:
    """`tune` for tasks that are there already."""
    began = time.monotonic()

    def left() -> float | None:
        return None if max_time_s is None else max_time_s - (time.monotonic() - began)

    def bench_of(task: Task) -> Bench | Boards:
        values = Values.of(task.default, [task.inputs(n) for n in range(SETS)])
        if farm or board.qemu is None:
            return Boards(
                board,
                values,
                address=farm,
                boards_at_once=boards_at_once if farm else 1,
                timeout_s=timeout_s,
            )
        return Bench(board, values, timeout_s=timeout_s)

    with Records(records) as kept, ExitStack() as stack:
        searches = [
            stack.enter_context(_search(task, bench_of(task), kept, board, metric, seed, batch))
            for task in tasks
        ]
        before = len(kept.trials)
        for search in searches:
            search.measure_default()
        running = list(searches)
        while running:
            for search in running:
                if not search.ended:
                    search.ended = _reason_to_end(search, trials, early_stop, left())
                if search.ended:
                    continue
                search.step(trials - len(search.trials))
                if progress:
                    progress(_progress(searches, search, trials, began, len(kept.trials) - before))
            running = [search for search in running if not search.ended]
        new = len(kept.trials) - before
        kernels = tuple(_tuned(search) for search in searches)
    return Tuning(
        metric,
        board.name,
        board.target,
        kernels,
        new,
        round(time.monotonic() - began, 3),
    )


def select(tasks: Sequence[Task], wanted: str) -> list[Task]:
    """Tasks by their numbers: "all", "3", "0,2-5".

    Raises:
        ParameterError: There is no such task.
    """
    if wanted == "all":
        return list(tasks)
    chosen: dict[int, Task] = {}
    for part in wanted.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        numbers = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
        if not numbers or numbers[-1] >= len(tasks):
            raise ParameterError(
                f"there is no task {part.strip()!r}",
                hint=f"all, or numbers from 0 to {len(tasks) - 1}: 0,2-5",
            )
        chosen |= {n: tasks[n] for n in numbers}
    return [chosen[n] for n in sorted(chosen)]


@contextmanager
def _search(
    task: Task,
    bench: Bench | Boards,
    records: Records,
    board: Board,
    metric: str,
    seed: int,
    batch: int,
) -> Iterator[Search]:
    search = Search(
        task,
        bench,
        records,
        metric=metric,
        seed=seed,
        compilers=compilers_of(task.target),
        board=board.name,
        batch=batch,
    )
    try:
        yield search
    finally:
        search.close()
        bench.close()


def _reason_to_end(
    search: Search, trials: int, early_stop: int | None, seconds_left: float | None
) -> str:
    if len(search.trials) >= trials:
        return "all trials are made"
    if early_stop is not None and search.since_best >= early_stop:
        return f"nothing better in {search.since_best} trials"
    if seconds_left is not None and seconds_left <= 0:
        return "the time is over"
    return ""


def _progress(
    searches: Sequence[Search], now: Search, trials: int, began: float, new: int
) -> Progress:
    done = sum(len(s.trials) for s in searches)
    wanted = sum(len(s.trials) if s.ended else trials for s in searches)
    seconds = time.monotonic() - began
    left = seconds / new * max(wanted - done, 0) if new else None
    return Progress(
        now.task.name, done, wanted, now.best.value or 0.0, now.default.value or 0.0, seconds, left
    )


def _tuned(search: Search) -> TunedKernel:
    best, default = search.best, search.default
    assert best.value is not None and default.value is not None
    return TunedKernel(
        search.task.name,
        search.task.key,
        default.value,
        best.value,
        len(search.trials),
        sum(t.value is None for t in search.trials),
        best.number,
        dict(best.choices),
        search.ended,
    )


def _board(board: str | Board | None, target: Target) -> Board:
    if board is None:
        fitting = [b for b in boards() if b.target == target.name and b.qemu]
        if not fitting:
            raise BoardError(f"no emulated board has the processor of target {target.name}")
        return fitting[0]
    chosen = find_board(board) if isinstance(board, str) else board
    if chosen.target != target.name:
        raise BoardError(f"board {chosen.name} has a {chosen.target}, not a {target.name}")
    return chosen


def _check_metric(metric: str, board: Board, farm: str | None) -> None:
    if metric not in METRICS:
        raise ParameterError(f"unknown metric {metric!r}", hint=nearest(metric, METRICS))
    if farm or board.qemu is None:
        check_boards(board)
        if metric not in (board.unit, "size"):
            raise ParameterError(
                f"a {board.name} behind a link counts {board.unit}, not {metric}",
                hint=f"metric {board.unit!r}; cycles are modelled without a tracker",
            )
    elif metric == "cycles" and board.target not in MODELLED:
        raise ParameterError(
            f"cycles of a {board.target} are not modelled", hint='metric "instructions"'
        )


def _check(
    *, trials: int, early_stop: int | None, max_time_s: float | None, timeout_s: float
) -> None:
    if trials < 1:
        raise ParameterError(f"trials must be 1 or more, got {trials}")
    if early_stop is not None and early_stop < 1:
        raise ParameterError(f"early_stop must be 1 or more, got {early_stop}")
    if max_time_s is not None and not max_time_s > 0:
        raise ParameterError(f"max_time_s must be above 0, got {max_time_s}")
    if not timeout_s > 0:
        raise ParameterError(f"timeout_s must be above 0, got {timeout_s}")
