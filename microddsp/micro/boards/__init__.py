"""Boards as data: one TOML file each says what processor, memory and emulator it has."""

from microddsp.micro.boards.board import (
    HOST,
    ZEPHYR_NAME,
    Board,
    Memory,
    Qemu,
    Serial,
    check_portless,
)
from microddsp.micro.boards.catalogue import DEFAULT_BOARD, boards, find_board, list_boards

__all__ = [
    "DEFAULT_BOARD",
    "HOST",
    "ZEPHYR_NAME",
    "Board",
    "Memory",
    "Qemu",
    "Serial",
    "boards",
    "check_portless",
    "find_board",
    "list_boards",
]
