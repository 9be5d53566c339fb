"""Zephyr's boards: those that are emulated here, and any other by its name or its file."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from microddsp.errors import BoardError, OptionError
from microddsp.micro.boards import HOST, ZEPHYR_NAME, Board, Qemu, Serial, find_board

DRIVER = "uart_zephyr.c"
_STACK_BYTES = 4096


@cache
def emulated_boards() -> dict[str, Board]:
    """By Zephyr's names. `target` is what a model is best compiled for."""
    found = {}
    for name, entry in sorted(_entries().items()):
        found[name] = _read(name, **{key: v for key, v in entry.items() if key != "slow_mpu"})
    return found


@cache
def boards_with_slow_mpu() -> frozenset[str]:
    """Emulated boards whose memory protection unit is not worth its time."""
    return frozenset(name for name, entry in _entries().items() if entry.get("slow_mpu"))


@cache
def _entries() -> dict[str, dict[str, Any]]:
    return tomllib.loads(Path(__file__).with_name("boards.toml").read_text())


def _read(
    name: str,
    description: str,
    target: str,
    clock_hz: int,
    machine: str,
    icount_shift: int = 6,
) -> Board:
    return Board(
        name=name,
        description=description,
        target=target,
        clock_hz=clock_hz,
        stack_bytes=_STACK_BYTES,
        qemu=Qemu(machine=machine, icount_shift=icount_shift, uart=True),
        zephyr=name,
    )


def check_board_name(name: str) -> object:
    """Whether Zephyr could have a board of that name; which ones it has is known when it builds.

    Raises:
        BoardError: The text is no name of a board.
    """
    if name.endswith(".toml"):
        return find_board(name)
    if not re.fullmatch(ZEPHYR_NAME, name):
        raise BoardError(f"{name!r} is no name of a Zephyr board", hint="see `west boards`")
    return name


def choose_board(board: str | Board | None, target: str, clock_hz: int, baud: int) -> Board:
    """The board given; without one, the first emulated of a target.

    A real board that is only a name has a serial port of that `baud`, and a cycle counter of
    `clock_hz`, 0 if that was not said.

    Raises:
        OptionError: A board, or the rate of a real one's cycles, must be named.
        BoardError: It is not Zephyr's, or something else must be known of it.
    """
    emulated = emulated_boards()
    if board is None:
        fitting = [known for known in emulated.values() if known.target == target]
        if not fitting:
            raise OptionError(
                f"no emulated Zephyr board is meant for target {target}",
                hint="name one: -o board=...",
            )
        return fitting[0]
    if isinstance(board, str) and board in emulated:
        return emulated[board]
    if isinstance(board, str) and not board.endswith(".toml"):
        return _real(board, target, clock_hz, baud)
    chosen = find_board(board) if isinstance(board, str) else board
    if chosen.zephyr is None:
        raise BoardError(
            f"board {chosen.name} is not Zephyr's", hint='zephyr = "..." in its file names it'
        )
    if chosen.serial and chosen.serial.driver != DRIVER:
        raise BoardError(
            f"board {chosen.name} has a driver, but Zephyr's own is taken",
            hint=f'driver = "{DRIVER}"',
        )
    return chosen


def _real(name: str, target: str, clock_hz: int, baud: int) -> Board:
    check_board_name(name)
    if target == HOST:
        raise OptionError("the model was compiled for this computer", hint="--target cortex-m3")
    if not clock_hz:
        raise OptionError(
            f"{name} is a real board: the rate of the kernel's cycles is needed",
            hint="-o clock=HZ, its CONFIG_SYS_CLOCK_HW_CYCLES_PER_SEC",
        )
    return Board(
        name=re.sub(r"[^A-Za-z0-9-]", "_", name),
        description=f"Zephyr board {name.replace('/', ' ')}",
        target=target,
        clock_hz=clock_hz,
        stack_bytes=_STACK_BYTES,
        serial=Serial(driver=DRIVER, baud=baud),
        zephyr=name,
    )
