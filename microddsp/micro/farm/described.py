"""Which board a farm's key means."""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path

from pydantic import ValidationError

from microddsp.errors import BoardError
from microddsp.micro.boards import Board, list_boards
from microddsp.micro.farm.address import FarmAddress
from microddsp.micro.farm.tracker import acquire
from microddsp.micro.platforms.zephyr.boards import emulated_boards
from microddsp.micro.rpc.link import Link

BOARD_FUNCTION = "microddsp.farm.board"
_ANSWER_S = 30.0


def board_of(address: FarmAddress, wait_s: float) -> str | Board:
    """The board to build for: the one named, the one that is called like the key, or else what a
    server of the key says.

    Raises:
        BoardError: No server became free, or it does not say.
    """
    if address.board:
        return address.board
    if address.key in list_boards() or address.key in emulated_boards():
        return address.key
    return ask_for_board(address, wait_s)


def ask_for_board(address: FarmAddress, wait_s: float) -> Board:
    """The board of the next free server, as that describes it.

    Raises:
        BoardError: No server became free, or it does not say.
    """
    with tempfile.NamedTemporaryFile(prefix="microddsp-") as nothing:
        nothing.write(struct.pack("<i", 0))  # no session constructor: TVM's own functions
        nothing.flush()
        with acquire(address.tracker, address.key, wait_s) as connection:
            connection.setblocking(True)
            os.set_inheritable(connection.fileno(), True)
            command = ["remote", str(connection.fileno()), str(Path(nothing.name)), repr(_ANSWER_S)]
            link = Link(command, _ANSWER_S)
            try:
                said = link.call(lambda: str(link.session.get_function(BOARD_FUNCTION)()))
                return Board.model_validate_json(said)
            except (BoardError, ValidationError) as error:
                raise BoardError(
                    f"the server of {address.key} does not say what board it has",
                    where=str(address),
                    hint="?board=NAME says it",
                ) from error
            finally:
                link.close()
