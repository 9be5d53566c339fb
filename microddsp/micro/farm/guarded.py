"""TVM's tracker, which goes on whatever its callers do and whatever it runs out of."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable

from tvm.rpc import base
from tvm.rpc.tracker import TCPEventHandler, TrackerServerHandler

from microddsp.micro.farm.guards import keep_alive

_BACKLOG = 128
_RETRY_S = 0.2


class GuardedTracker(TrackerServerHandler):
    """TVM's, but for what it does with a new connection.

    Without a descriptor for it TVM tries again for ever and serves nobody meanwhile, so that no
    descriptor becomes free; and it keeps connections that say nothing, and those of computers that
    are gone.
    """

    def __init__(self, listening: socket.socket, greeting_s: float) -> None:
        self._greeting_s = greeting_s
        super().__init__(listening, base.random_key("tracker"))

    def _on_event(self, _: int) -> None:
        while True:
            try:
                connection, address = self._sock.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # it is gone already
            except OSError:  # no descriptor, no memory: others end meanwhile
                self._ioloop.remove_handler(self._sock.fileno())
                self._ioloop.call_later(_RETRY_S, self._listen)
                return
            keep_alive(connection)
            caller = _Caller(self, connection, address)
            self._ioloop.call_later(self._greeting_s, lambda caller=caller: _end_silent(caller))

    def _listen(self) -> None:
        read = self._ioloop.READ
        self._ioloop.add_handler(
            self._sock.fileno(), lambda _, events: self._on_event(events), read
        )


class _Caller(TCPEventHandler):
    """A connection to the tracker, which is closed where it sends what is no message."""

    def on_message(self, message: bytes) -> None:
        try:
            super().on_message(message)
        except (ValueError, struct.error):
            self.close()


def _end_silent(caller: TCPEventHandler) -> None:
    if caller._init_req_nbytes:  # what its greeting lacks
        caller.close()


def run_tracker(host: str, port: int, greeting_s: float, started: Callable[[int], None]) -> None:
    """Until an exception, such as a KeyboardInterrupt; `started` gets the port. Callers have to
    greet within `greeting_s`.

    Raises:
        OSError: It cannot listen there.
    """
    logging.getLogger("RPCTracker").setLevel(logging.WARNING)
    family = base.get_addr_family((host, port))
    with socket.create_server((host, port), family=family, backlog=_BACKLOG) as listening:
        asyncio.set_event_loop(asyncio.new_event_loop())
        tracker = GuardedTracker(listening, greeting_s)
        started(listening.getsockname()[1])
        tracker.run()
