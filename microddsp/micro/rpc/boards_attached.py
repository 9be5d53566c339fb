"""Which serial port a real board is on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from microddsp.errors import BoardError
from microddsp.micro.boards import Board, boards, check_portless


@dataclass(frozen=True, slots=True)
class Port:
    """A serial port of this computer; `usb` is "vendor:product", "" where it is not on USB."""

    path: str
    usb: str = ""
    serial_number: str = ""


def list_ports() -> list[Port]:
    """The serial ports of this computer.

    Raises:
        BoardError: pyserial, which finds them, is not installed.
    """
    try:
        from serial.tools import list_ports as found
    except ImportError as error:
        raise BoardError(
            "finding boards on USB needs pyserial",
            hint="pip install 'microddsp[boards]', or give port=",
        ) from error
    return [
        Port(
            entry.device,
            f"{entry.vid:04x}:{entry.pid:04x}" if entry.vid is not None else "",
            entry.serial_number or "",
        )
        for entry in found.comports()
    ]


def choose_port(board: Board, ports: Sequence[Port], serial_number: str | None = None) -> Port:
    """The port that the board is on.

    Raises:
        BoardError: None, or several, fit.
    """
    usb = board.serial.usb if board.serial else []
    fitting = [port for port in ports if port.usb in usb]
    if serial_number is not None:
        named = [port for port in fitting if port.serial_number == serial_number]
        if not named:
            there = ", ".join(port.serial_number for port in fitting) or "none"
            raise BoardError(
                f"no {board.name} with serial number {serial_number!r} is attached",
                hint=f"attached: {there}",
            )
        fitting = named
    if not fitting:
        wanted = ", ".join(usb) or "no USB numbers are known of it"
        raise BoardError(f"no {board.name} is attached ({wanted})", hint="give port= (--port)")
    if len(fitting) > 1:
        listed = ", ".join(f"{port.serial_number or '?'} on {port.path}" for port in fitting)
        raise BoardError(
            f"several {board.name} are attached: {listed}",
            hint="give serial_number= or port= (--serial-number, --port)",
        )
    return fitting[0]


def find_port(board: Board, *, port: str | None = None, serial_number: str | None = None) -> str:
    """The path of the board's port: the one given, or the one that its USB numbers find.

    Raises:
        BoardError: None, or several, fit.
    """
    return port if port is not None else choose_port(board, list_ports(), serial_number).path


def attached(ports: Sequence[Port], known: Sequence[Board] | None = None) -> list[tuple[str, Port]]:
    """Boards that are there: name of the board and its port."""
    return [
        (board.name, port)
        for board in (boards() if known is None else known)
        for port in ports
        if board.serial and port.usb in board.serial.usb
    ]


def port_of(board: Board, port: str | None, serial_number: str | None) -> str | None:
    """Where a real board is; None for one that is emulated.

    Raises:
        ParameterError: The board is emulated, and a port is given.
        BoardError: No board, or several, fit.
    """
    if board.serial is None:
        check_portless(board, port, serial_number)
        return None
    return find_port(board, port=port, serial_number=serial_number)
