"""How a board of a farm is named: rpc://HOST:PORT/KEY?board=NAME"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard
from urllib.parse import parse_qs, urlsplit

from microddsp.errors import BoardError

SCHEME = "rpc://"


@dataclass(frozen=True, slots=True)
class Tracker:
    """Where a farm's tracker listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class FarmAddress:
    """A board behind a tracker; `board` is "" where the server has to say what board it is."""

    tracker: Tracker
    key: str
    board: str = ""

    def __str__(self) -> str:
        return f"{SCHEME}{self.tracker}/{self.key}" + (f"?board={self.board}" * bool(self.board))


def parse_tracker(text: str | Tracker) -> Tracker:
    """The tracker of "HOST:PORT".

    Raises:
        BoardError: It is something else.
    """
    if isinstance(text, Tracker):
        return text
    try:
        parts = urlsplit(f"//{text}")
        if not parts.hostname or not parts.port or parts.netloc != text or "@" in text:
            raise ValueError
    except ValueError as error:
        raise BoardError(
            f"{text!r} is no address of a tracker", hint="HOST:PORT, as in 127.0.0.1:9190"
        ) from error
    return Tracker(parts.hostname, parts.port)


def parse_address(text: str) -> FarmAddress:
    """What rpc://HOST:PORT/KEY[?board=NAME] says.

    Raises:
        BoardError: It is something else.
    """
    parts = urlsplit(text)
    try:
        asked = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    except ValueError:
        asked = {"": []}
    key = parts.path[1:]
    if not text.startswith(SCHEME) or parts.fragment or set(asked) - {"board"}:
        raise _no_address(text)
    if not key or check_key(key) != key:
        raise _no_address(text)
    return FarmAddress(parse_tracker(parts.netloc), key, *asked.get("board", [])[-1:])


def check_key(key: str) -> str:
    """A key as given.

    Raises:
        BoardError: A tracker or TVM would misread it.
    """
    if not key or any(c.isspace() or c in ":/?#" or not c.isprintable() for c in key):
        raise BoardError(f"{key!r} cannot be a key", hint="letters, digits, - and _")
    return key


def is_farm_address(board: object) -> TypeGuard[str]:
    return isinstance(board, str) and board.startswith(SCHEME)


def _no_address(text: str) -> BoardError:
    return BoardError(
        f"{text!r} is no address of a board",
        hint="rpc://HOST:PORT/KEY or rpc://HOST:PORT/KEY?board=NAME",
    )
