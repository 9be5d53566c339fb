"""Boards as data: one TOML file each says what processor, memory and emulator it has."""

from microddsp.micro.boards.board import Board, Memory, Qemu
from microddsp.micro.boards.catalogue import DEFAULT_BOARD, boards, find_board, list_boards

__all__ = ["DEFAULT_BOARD", "Board", "Memory", "Qemu", "boards", "find_board", "list_boards"]
