"""What keeps TVM's servers and tracker from waiting for ever, and from outliving their parents."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import time
from multiprocessing.connection import wait

_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
_MOST_BYTES = 1 << 20  # of a greeting or of the tracker's answers


def end_with(parent: int) -> None:
    """Be killed when the process that forked us ends, or has ended."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def children_end_with_us() -> None:
    """What is forked from here, and from that, ends with who forked it, from its first moment."""
    forking = [0]

    def before() -> None:
        forking[0] = os.getpid()

    os.register_at_fork(before=before, after_in_child=lambda: end_with(forking[0]))


def keep_alive(connection: socket.socket) -> None:
    """An end of which nothing is heard any more is gone after half a minute."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def limit_silence(connection: socket.socket, seconds: int) -> None:
    """Reading ends with an error after so long; not at all for 0. TVM waits without a limit, and
    what a server accepts has the listening socket's: who connects and says nothing, or starts no
    session, has the board for so long only.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", seconds, 0))


def session_begins() -> None:
    """A client whose computer is gone gives its board back within half a minute, and one that is
    there may be silent for as long as it likes.

    TVM has the connection; ours are all connections of this process but for the server's listening
    socket, which is that of the next clients too.
    """
    for number in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(number))) as connection:
                listens = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if not listens and connection.family in (socket.AF_INET, socket.AF_INET6):
                    limit_silence(connection, 0)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    keep_alive(connection)
        except OSError:
            continue  # no socket


def limit_receiving(seconds: float) -> None:
    """In this process TVM receives a part of a greeting, or of an answer of the tracker, within so
    long or not at all: a byte now and then is no silence, and a tracker may stand still. Nor does
    it believe in lengths that none of them has.
    """
    from tvm.rpc import base

    def receive(connection: socket.socket, nbytes: int) -> bytes:
        if not 0 <= nbytes <= _MOST_BYTES:
            raise OSError(f"{nbytes} bytes are announced")
        deadline = time.monotonic() + seconds
        received = bytearray()
        while len(received) < nbytes:
            if not wait([connection], max(0.0, deadline - time.monotonic())):
                raise TimeoutError("the other end is too slow")
            data = connection.recv(nbytes - len(received))
            if not data:
                raise ConnectionError("the other end is gone")
            received += data
        return bytes(received)

    base.recvall = receive
