"""How the bridge reaches a board."""

from __future__ import annotations

from pathlib import Path

from microddsp.errors import BoardError
from microddsp.micro.boards import Board
from microddsp.micro.tools import find_tool


def start_command(board: Board, image: Path, port: str | None = None) -> list[str]:
    """Arguments of the bridge for a board with a firmware; `port` is that of a serial line.

    Raises:
        BoardError: The emulator or the firmware is not there, or a port is needed.
    """
    if board.serial:
        if port is None:
            raise BoardError(f"{board.name} needs a serial port", hint='port="/dev/ttyACM0"')
        resets = "yes" if board.serial.break_resets else "no"
        return ["serial", port, str(board.serial.baud), resets]
    if not image.is_file():
        raise BoardError(f"there is no firmware {str(image)!r}", hint="build the project first")
    if board.qemu is None:
        return ["spawn", str(image.resolve())]
    return ["spawn", *qemu_command(board, image)]


def qemu_command(board: Board, image: Path) -> list[str]:
    """How the emulator is started with a firmware.

    Raises:
        BoardError: The emulator or the firmware is not there.
    """
    assert board.qemu
    qemu = find_tool(board.qemu.binary, f"run {board.name}")
    if not image.is_file():
        raise BoardError(f"there is no firmware {str(image)!r}", hint="build the project first")
    return [
        *(qemu, "-M", board.qemu.machine, "-icount", f"shift={board.qemu.icount_shift}"),
        *("-display", "none", "-nodefaults", "-no-reboot"),
        *("-semihosting-config", "enable=on,target=native"),
        *("-kernel", str(image.resolve())),
    ]
