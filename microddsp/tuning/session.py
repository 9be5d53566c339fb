"""Tuning a pipeline: all kernels in turns, until the budget is spent."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microddsp.errors import ParameterError
from microddsp.interrupts import interruptible
from microddsp.micro.boards import Board
from microddsp.micro.targets import Target, find_target
from microddsp.tuning.database import Records, compilers_of
from microddsp.tuning.measure import Bench, Values
from microddsp.tuning.options import board_for, check_metric, check_numbers, select
from microddsp.tuning.remote import Boards, Wear
from microddsp.tuning.report import Progress, Tuning, progress_of, tuned
from microddsp.tuning.search import Search

if TYPE_CHECKING:
    import torch

    from microddsp.tuning.task import Task

# Every candidate runs on so many sets of values.
SETS = 2


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
    port: str | None = None,
    say: Callable[[str], object] = warnings.warn,
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
        port: Where a board on a cable is, if its USB numbers do not say.
        say: Told when a farm's server is lost, and when a board's flash wears.

    Raises:
        ParameterError: An option makes no sense.
        RecordError: The records cannot be used, or another session has them.
        BoardError: A board or a tool is missing.
        CompileError: As `compile`.
    """
    from microddsp.tuning.task import tuning_tasks

    check_numbers(trials=trials, early_stop=early_stop, max_time_s=max_time_s, timeout_s=timeout_s)
    if key and not tracker:
        raise ParameterError("a key is one of a farm", hint="say which: tracker")
    chosen = find_target(target) if isinstance(target, str) else target
    device = board_for(board, chosen)
    farm = f"rpc://{tracker}/{key or device.name}?board={device.name}" if tracker else None
    check_metric(metric, device, farm)
    with interruptible():
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
        port=port,
        say=say,
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
    port: str | None = None,
    say: Callable[[str], object] = warnings.warn,
    farm: str | None = None,
    boards_at_once: int = 2,
    batch: int = 32,
) -> Tuning:
    """`tune` for tasks that are there already."""
    began = time.monotonic()
    wear = Wear(board, say)

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
                port=port,
                say=say,
                wear=wear,
            )
        return Bench(board, values, timeout_s=timeout_s)

    with Records(records) as kept, ExitStack() as stack:
        searches = [
            stack.enter_context(_search(task, bench_of(task), kept, board, metric, seed, batch))
            for task in tasks
        ]
        before = len(kept.trials)
        for search in searches:
            with interruptible():
                search.measure_default()
        running = list(searches)
        while running:
            for search in running:
                if not search.ended:
                    search.ended = _reason_to_end(search, trials, early_stop, left())
                if search.ended:
                    continue
                with interruptible():
                    search.step(trials - len(search.trials))
                if progress:
                    progress(
                        progress_of(searches, search, trials, began, len(kept.trials) - before)
                    )
            running = [search for search in running if not search.ended]
        new = len(kept.trials) - before
        kernels = tuple(tuned(search) for search in searches)
    return Tuning(
        metric,
        board.name,
        board.target,
        kernels,
        new,
        round(time.monotonic() - began, 3),
        wear.flashes,
    )


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
