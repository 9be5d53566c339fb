"""Which boards there are."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from microddsp.errors import BoardError, nearest
from microddsp.micro.boards.board import Board

DEFAULT_BOARD = "mps2-an386"
_FOLDER = Path(__file__).parent


def read_board(path: Path) -> Board:
    """A board from its file; the file's name is the board's.

    Raises:
        BoardError: The file is no TOML, or says something that a board cannot be.
    """
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
        for key in said.keys() & {"name", "folder"}:
            raise BoardError(f"{key}: it is that of the file", where=str(path), hint="leave it out")
        return Board(name=path.stem, folder=path.parent, **said)
    except OSError as error:
        raise BoardError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BoardError(f"cannot be read: {error}", where=str(path)) from error
    except ValidationError as error:
        raise BoardError(wrong_fields(error), where=str(path)) from error


def wrong_fields(error: ValidationError) -> str:
    """What a board cannot be, with the names of its fields."""
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, item["loc"])), _words(item["msg"]))))
        for item in error.errors()
    )


def _words(message: str) -> str:
    return message.removeprefix("Value error, ")


@cache
def boards() -> tuple[Board, ...]:
    """All boards, by name."""
    return tuple(read_board(path) for path in sorted(_FOLDER.glob("*.toml")))


def list_boards() -> list[str]:
    """Names of all boards."""
    return [board.name for board in boards()]


def find_board(name: str) -> Board:
    """The board of that name, or of a file of yours: "boards/mine.toml".

    Raises:
        BoardError: There is none; the hint names the nearest.
    """
    if name.endswith(".toml"):
        return read_board(Path(name))
    for board in boards():
        if board.name == name:
            return board
    raise BoardError(f"unknown board {name!r}", hint=nearest(name, list_boards()))
