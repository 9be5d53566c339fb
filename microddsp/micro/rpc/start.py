"""How the bridge reaches a board."""

from __future__ import annotations

from pathlib import Path

from microddsp.errors import BoardError
from microddsp.micro.boards import Board
from microddsp.micro.rpc.bridge import LINK_IN
from microddsp.micro.tools import find_tool

_BY_SEMIHOSTING = ("-semihosting-config", "enable=on,target=native")
# The emulated UARTs take a byte at a time, and QEMU's main loop wakes up for each. A multiplexer in
# front holds 32, which the firmware's own reads pull: a fifth of the time. Its escape character is
# set to what no byte can be.
_BY_UART = (
    *("-chardev", f"socket,id=link,fd={LINK_IN},mux=on", "-echr", "300"),
    *("-serial", "chardev:link"),
)


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
    check_built(image)
    if board.qemu is None:
        return ["spawn", str(image.resolve())]
    return ["uart" if board.qemu.uart else "spawn", *qemu_command(board, image)]


def qemu_command(board: Board, image: Path) -> list[str]:
    """How the emulator is started with a firmware.

    Raises:
        BoardError: The emulator or the firmware is not there.
    """
    assert board.qemu
    qemu = find_tool(board.qemu.binary, f"run {board.name}")
    check_built(image)
    return [
        *(qemu, "-M", board.qemu.machine, "-icount", f"shift={board.qemu.icount_shift}"),
        *("-display", "none", "-nodefaults", "-no-reboot"),
        *(_BY_UART if board.qemu.uart else _BY_SEMIHOSTING),
        *("-kernel", str(image.resolve())),
    ]


def check_built(image: Path) -> None:
    """Raises BoardError where there is no such firmware."""
    if not image.is_file():
        raise BoardError(f"there is no firmware {str(image)!r}", hint="build the project first")
