"""TVM's tracker: started, asked what it knows, asked for a board. Every wait has an end.

TVM's own client of it waits for ever, and for a minute where nobody listens.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from microddsp.errors import BoardError, ParameterError, nearest
from microddsp.micro.farm.address import Tracker

ANSWER_S = 5.0
_GREETING_S = 10.0
_RETRY_S = 0.1
_COMES_BACK_S = 3.0
_MOST_S = 1e6


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """What a tracker knows of a key: boards in all, free ones, and requests that wait."""

    key: str
    boards: int
    free: int
    waiting: int

    @property
    def busy(self) -> int:
        return max(0, self.boards - self.free)


def serve_tracker(host: str, port: int, started: Callable[[int], None]) -> None:
    """Run TVM's tracker in this process until it is interrupted; `started` gets its port.

    Raises:
        BoardError: The port is taken, or the host is not this computer's.
    """
    from microddsp.micro.farm.guarded import run_tracker

    try:
        run_tracker(host, port, _GREETING_S, started)
    except OSError as error:
        raise BoardError(
            f"the tracker cannot listen on {host}:{port}: {error}", hint="another --port"
        ) from error


def tracker_status(tracker: Tracker) -> list[KeyStatus]:
    """The keys of a tracker, by name.

    Raises:
        BoardError: There is no tracker.
    """
    from tvm.rpc.base import TrackerCode

    with _connected(tracker, ANSWER_S) as connection:
        summary = _ask(connection, [TrackerCode.SUMMARY])
    boards = Counter(info["key"].partition(":")[2] for info in summary["server_info"])
    queues = summary["queue_info"]
    found = [
        KeyStatus(
            key,
            boards[key],
            queues.get(key, {}).get("free", 0),
            queues.get(key, {}).get("pending", 0),
        )
        for key in sorted({*boards, *queues})
    ]
    return [status for status in found if status.boards or status.waiting]


def acquire(tracker: Tracker, key: str, wait_s: float, *, lost: bool = False) -> socket.socket:
    """A connection to the server of a free board, which is ours until it is closed. `lost`: there
    was one before, so that a key without a board is waited for like a free board.

    Raises:
        BoardError: There is no tracker, it has no board of that key, or none became free in time.
        ParameterError: The time makes no sense.
    """
    if not 0.0 <= wait_s < _MOST_S:
        raise ParameterError(f"wait_s must be 0 or more and below {_MOST_S:g}, got {wait_s:g}")
    deadline = time.monotonic() + wait_s
    if not lost:
        _check_known(tracker, key, min(deadline, time.monotonic() + _COMES_BACK_S))
    while True:
        host, port, match = _wait_for_server(tracker, key, deadline, wait_s)
        try:
            return _greet(host, port, match)
        except OSError as error:  # it ended meanwhile, or its port is not open to us
            if time.monotonic() + _RETRY_S > deadline:
                raise BoardError(
                    f"the server of {key} at {host}:{port} cannot be reached: {error}"
                ) from error
            time.sleep(_RETRY_S)


def _check_known(tracker: Tracker, key: str, deadline: float) -> None:
    """Servers that are started anew, or look for the tracker, are away for a moment."""
    while True:
        known = {status.key for status in tracker_status(tracker) if status.boards}
        if key in known:
            return
        if time.monotonic() + _RETRY_S > deadline:
            hint = nearest(key, known) if known else "it has no boards: microddsp farm serve"
            raise BoardError(f"the tracker at {tracker} has no board {key!r}", hint=hint)
        time.sleep(_RETRY_S)


def _wait_for_server(
    tracker: Tracker, key: str, deadline: float, wait_s: float
) -> tuple[str, int, str]:
    from tvm.rpc.base import TrackerCode

    with _connected(tracker, ANSWER_S) as connection:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            host, port, match = _ask(connection, [TrackerCode.REQUEST, key, "", 1])
        except TimeoutError as error:
            connection.close()  # takes the request out of the queue, and out of the figures
            raise _nothing_free(tracker, key, wait_s) from error
    return str(host), int(port), str(match)


def _nothing_free(tracker: Tracker, key: str, wait_s: float) -> BoardError:
    known = {status.key: status for status in tracker_status(tracker)}
    there = known.get(key, KeyStatus(key, 0, 0, 0))
    return BoardError(
        f"no board {key!r} became free within {wait_s:g} s",
        where=str(tracker),
        hint=f"boards {there.boards}, free {there.free}, requests waiting {there.waiting}: "
        "wait longer (wait_s), or add boards",
    )


def _greet(host: str, port: int, match: str) -> socket.socket:
    """The beginning of a session with a server, as TVM's client does it.

    Raises:
        OSError: Nobody is there, or it has given the board to somebody else.
    """
    from tvm.rpc import base

    connection = socket.create_connection((host, port), ANSWER_S)
    try:
        key = f"client:{match}".encode()
        connection.sendall(struct.pack("<ii", base.RPC_MAGIC, len(key)) + key)
        code = struct.unpack("<i", base.recvall(connection, 4))[0]
        if code != base.RPC_CODE_SUCCESS:
            raise OSError("it is somebody else's now")
        base.recvall(connection, struct.unpack("<i", base.recvall(connection, 4))[0])
    except BaseException:
        connection.close()
        raise
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@contextmanager
def _connected(tracker: Tracker, timeout_s: float) -> Iterator[socket.socket]:
    """A connection to the tracker; what goes wrong on it is told of the tracker."""
    from tvm.rpc import base

    try:
        with socket.create_connection((tracker.host, tracker.port), timeout_s) as connection:
            connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            if struct.unpack("<i", base.recvall(connection, 4))[0] != base.RPC_TRACKER_MAGIC:
                raise BoardError(f"what listens at {tracker} is no tracker")
            yield connection
    except (OSError, UnicodeError) as error:  # a name may be none that can be asked for
        raise BoardError(
            f"there is no tracker at {tracker}: {error}", hint="microddsp farm tracker starts one"
        ) from error


def _ask(connection: socket.socket, question: list[Any]) -> Any:
    """TVM's answer to a question: a code and what was asked for.

    Raises:
        OSError: The connection ended; a TimeoutError where there is no answer.
    """
    from tvm.rpc import base

    base.sendjson(connection, question)
    try:
        code, answer = base.recvjson(connection)
    except (ValueError, TypeError) as error:
        raise OSError("it speaks another protocol") from error
    if code != base.TrackerCode.SUCCESS:
        raise OSError("it refuses the question")
    return answer
