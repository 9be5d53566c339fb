"""What a session of tuning is told: which kernels, where, and for how long."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from microddsp.errors import BoardError, ParameterError, nearest
from microddsp.micro.boards import Board, boards, find_board
from microddsp.micro.targets import Target
from microddsp.tuning.measure import METRICS, MODELLED
from microddsp.tuning.remote import check_boards

if TYPE_CHECKING:
    from microddsp.tuning.task import Task


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


def board_for(board: str | Board | None, target: Target) -> Board:
    if board is None:
        fitting = [b for b in boards() if b.target == target.name and b.qemu]
        if not fitting:
            raise BoardError(f"no emulated board has the processor of target {target.name}")
        return fitting[0]
    chosen = find_board(board) if isinstance(board, str) else board
    if chosen.target != target.name:
        raise BoardError(
            f"board {chosen.name} has a {chosen.target}, not a {target.name}",
            hint=f"target {chosen.target!r}, or another board",
        )
    return chosen


def check_metric(metric: str, board: Board, farm: str | None) -> None:
    if metric not in METRICS:
        raise ParameterError(f"unknown metric {metric!r}", hint=nearest(metric, METRICS))
    if farm or board.qemu is None:
        check_boards(board)
        if metric not in (board.unit, "size"):
            raise ParameterError(
                f"{board.name} behind a link counts {board.unit}, not {metric}",
                hint=f"metric {board.unit!r}; cycles are modelled without a tracker",
            )
    elif metric == "cycles" and board.target not in MODELLED:
        raise ParameterError(
            f"cycles of a {board.target} are not modelled", hint='metric "instructions"'
        )


def check_numbers(
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
