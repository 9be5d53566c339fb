"""A board of a farm for a firmware of ours."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from microddsp.errors import BoardError, LinkError, ServerLostError
from microddsp.micro.boards import Board
from microddsp.micro.farm.address import Tracker, check_key, parse_tracker
from microddsp.micro.farm.refusals import refusal
from microddsp.micro.farm.tracker import acquire
from microddsp.micro.rpc.link import Link, check_timeout

CONSTRUCTOR = "microddsp.farm.open"
WAIT_S = 60.0
# The server's bridge watches the device; ours gives it this much more before it gives up.
_GRACE_S = 5.0
_START_S = 30.0
_FLASH_S = 400.0
_STRING, _BYTES, _FLOAT = 8, 9, 3
_T = TypeVar("_T")


def request(
    tracker: str | Tracker,
    key: str,
    image: bytes,
    board: Board,
    timeout_s: float = 5.0,
    *,
    wait_s: float = WAIT_S,
    lost: bool = False,
) -> Link:
    """A session with a board of a farm that runs a firmware: any that has the RPC server.

    Args:
        tracker: "HOST:PORT".
        key: Which boards; usually a board's name.
        image: The firmware, an ELF file's bytes. They are sent; nothing of the server is named.
        board: What the firmware was built for; the server checks that it has one.
        timeout_s: The device must answer every call within this, or it is stopped.
        wait_s: How long to wait for a free board.
        lost: A server was lost before: where it was the last of its key, the next is waited for.

    Raises:
        BoardError: No tracker, no such board, none free in time, or the server refuses.
        ServerLostError: The server ended.
        LinkError: The device does not come up.
    """
    check_timeout(timeout_s)
    where = parse_tracker(tracker)
    with tempfile.TemporaryDirectory(prefix="microddsp-") as folder:
        firmware, constructor = Path(folder, "firmware.elf"), Path(folder, "constructor")
        firmware.write_bytes(image)
        constructor.write_bytes(_arguments(board.name, image, timeout_s))
        with acquire(where, check_key(key), wait_s, lost=lost) as connection:
            connection.setblocking(True)
            os.set_inheritable(connection.fileno(), True)
            start_s = _START_S + timeout_s + _FLASH_S * bool(board.serial)
            command = ["remote", str(connection.fileno()), str(constructor), repr(start_s)]
            patience_s = timeout_s + _GRACE_S + _whole_memory_s(board)
            name = f"device.{board.name}"
            try:
                return Link(command, patience_s, firmware, name, asks_for_logs=True)
            except LinkError as error:
                told = refusal(str(error))
                raise (told or error) from error


def request_and_run(
    tracker: str | Tracker,
    key: str,
    image: bytes,
    board: Board,
    work: Callable[[Link], _T],
    timeout_s: float = 5.0,
    *,
    wait_s: float = WAIT_S,
    attempts: int = 3,
) -> _T:
    """What `work` gives on a board of a farm. Where the server is lost meanwhile, `work` starts
    anew on another board. Errors of the device itself are not repeated.

    Raises:
        ServerLostError: `attempts` servers were lost.
        BoardError: As `request`, and what `work` raises.
    """
    if attempts < 1:
        raise BoardError(f"attempts must be 1 or more, got {attempts}")
    for left in reversed(range(attempts)):
        lost = left + 1 < attempts
        try:
            link = request(tracker, key, image, board, timeout_s, wait_s=wait_s, lost=lost)
            try:
                return work(link)
            finally:
                link.close()
        except ServerLostError:
            if not left:
                raise
    raise AssertionError("not reached")


def _whole_memory_s(board: Board) -> float:
    """A server is silent while it moves a tensor over a slow line: at most all memory."""
    if board.serial is None:
        return 60.0 if board.qemu and board.qemu.uart else 0.0
    return 2.0 * (board.ram.kbytes * 1024 if board.ram else 1 << 20) * 10 / board.serial.baud


def _arguments(board: str, image: bytes, timeout_s: float) -> bytes:
    """What the server's session constructor is called with, as TVM packs arguments."""
    words = b"".join(
        struct.pack("<iQ", kind, len(data)) + data
        for kind, data in (
            (_STRING, CONSTRUCTOR.encode()),
            (_STRING, board.encode()),
            (_BYTES, image),
        )
    )
    return struct.pack("<i", 4) + words + struct.pack("<id", _FLOAT, timeout_s)
