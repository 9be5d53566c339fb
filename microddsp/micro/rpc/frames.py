"""The host's end of a serial line that loses, flips and doubles bytes. Standard library only.

`runtime/frames.h` describes a frame. Both sides number their bytes, so that a piece may be sent
again with another length, and nothing is lost or taken twice. The host has the clock: it repeats
until it has an answer, with shorter frames while many are damaged.
"""

from __future__ import annotations

import re
import struct
import zlib

HELLO, WELCOME, DATA, UNKNOWN, ASK = 0x31, 0x32, 0x33, 0x34, 0x35
CHANGES = 0x80
LARGEST = 4096  # bytes of payload that the host takes
LEAST = 8  # bytes a frame on a bad line
_HEAD = struct.Struct("<BHHHHH")
_CRC = struct.Struct("<I")
_OVERHEAD = _HEAD.size + _CRC.size + 3
_FULL = 183  # so many bytes and the code itself, and no zero
_SEVERAL = 200  # from here on: several zeros; between: many
_MOST_LITERALS, _MOST_ZEROS = 6, 9
_MANY = 16
_RUN = re.compile(rb"([^\0]*)(\0+)")
_FRAME_S = 0.25  # a frame on a slow line does not take longer,
_SLOW = 64  # unless it has no more bytes
_LONGEST_S = 0.1
_HELLO_S = 0.1
_GROW_AFTER = 4  # good frames
_QUICK_S = 0.005  # less than the host waits before it repeats


def encode(frame: bytes) -> bytes:
    """The code of `runtime/frames.h` between two zeros."""
    coded = bytearray(1)
    for run in _RUN.finditer(frame + b"\0"):
        literals, zeros = run[1], len(run[2])
        while len(literals) >= _FULL - 1:
            coded.append(_FULL)
            coded += literals[: _FULL - 1]
            literals = literals[_FULL - 1 :]
        while zeros:
            at_once = 1 if len(literals) > _MOST_LITERALS else min(zeros, _MOST_ZEROS)
            if not literals and zeros >= _MANY:
                many = min(zeros // _MANY, _SEVERAL - _FULL - 1)
                at_once = many * _MANY
                coded.append(_FULL + many)
            elif at_once == 1:
                coded.append(len(literals) + 1)
            else:
                coded.append(_SEVERAL + 8 * len(literals) + at_once - 2)
            coded += literals
            literals = b""
            zeros -= at_once
    coded.append(0)
    return bytes(coded)


def decode(coded: bytes) -> bytes | None:
    """The inverse of `encode`, without the zeros around; None if it is none."""
    frame = bytearray()
    at = 0
    zeros = 0
    while at < len(coded):
        code = coded[at]
        if code >= _SEVERAL:
            literals, zeros = divmod(code - _SEVERAL, 8)
            zeros += 2
        elif code > _FULL:
            literals, zeros = 0, (code - _FULL) * _MANY
        else:
            literals, zeros = code - 1, int(code != _FULL)
        if code == 0 or at + literals >= len(coded):
            return None
        frame += coded[at + 1 : at + 1 + literals]
        frame += bytes(zeros)
        at += literals + 1
    if not zeros:
        return None
    del frame[-1]
    return bytes(frame)


def pack(
    kind: int,
    session: int,
    seq: int,
    ack: int,
    limit: int,
    payload: bytes = b"",
    before: bytes = b"",
) -> bytes:
    """A frame; with CHANGES in its kind, of a device that took the payload `before` last."""
    head = _HEAD.pack(kind, session, seq, ack, limit, len(payload))
    crc = _CRC.pack(zlib.crc32(payload, zlib.crc32(head)))
    return encode(head + _changes(payload, before if kind & CHANGES else b"") + crc)


def unpack(coded: bytes, before: bytes = b"") -> tuple[int, int, int, int, int, bytes] | None:
    """Kind, session, seq, ack, limit and payload; None if it is damaged."""
    frame = decode(coded)
    if frame is None or len(frame) < _HEAD.size + _CRC.size:
        return None
    head, payload, crc = frame[: _HEAD.size], frame[_HEAD.size : -_CRC.size], frame[-_CRC.size :]
    kind, session, seq, ack, limit, length = _HEAD.unpack(head)
    payload = _changes(payload, before if kind & CHANGES else b"")
    if _CRC.pack(zlib.crc32(payload, zlib.crc32(head))) != crc or length != len(payload):
        return None
    return kind, session, seq, ack, limit, payload


def _changes(payload: bytes, before: bytes) -> bytes:
    common = min(len(payload), len(before))
    both = int.from_bytes(payload[:common], "little") ^ int.from_bytes(before[:common], "little")
    return both.to_bytes(common, "little") + payload[common:]


class Frames:
    """A state machine: bytes and times in, bytes to write in `outgoing`."""

    def __init__(self, session: int, baud: int, now: float) -> None:
        """`session` is a number that no session before has had, 1 to 65535."""
        self.session = session
        self.outgoing = bytearray()
        self.open = False
        self.lost = False  # the device knows this session no more: it was reset
        self.moved = 0  # bytes that arrived, either way
        self.waiting = False  # for an answer to what was sent
        self._byte_s = 10.0 / baud
        self._coded = bytearray()
        self._pending = bytearray()  # not acknowledged
        self._owing = False  # the device does not know yet what arrived
        self._in_flight = 0
        self._exposed = 0  # of what is pending, what the device may have
        self._first_out = 0
        self._next_in = 0
        self._most = min(LARGEST, max(_SLOW, int(_FRAME_S / self._byte_s)))
        self._limit = self._most
        self._flying = b""  # the last payload that was sent
        self._before = b""  # the last one that the device took, as far as is known
        self._noisy = False  # since the last frame that was sent
        self._good = 0
        self._quick = False  # the device computed for less than _QUICK_S, last time
        self._asked: float | None = None  # when it had all of a question, not yet replied to
        self._patience = 0.0
        self._sent = now
        self._hello(now)

    def deadline(self) -> float | None:
        """When `tick` wants to be called; None: not before something is sent."""
        if self.lost or (self.open and not (self._in_flight or self.waiting)):
            return None
        return self._sent + self._patience

    def tick(self, now: float) -> None:
        """Repeat what was not answered.

        Where nothing is in flight and nothing was heard the device computes: it finds these
        questions later, and answers each, so their answers shall be short.
        """
        at = self.deadline()
        if at is None or now < at:
            return
        if not self.open:
            self._hello(now)
            return
        patience = min(1.5 * self._patience, _LONGEST_S)
        if self._in_flight:
            self._before = b""
        if self._quick and self._in_flight == len(self._pending) and self.waiting:
            # It may compute for longer now. Whether it does, an answer to a short question tells.
            self._quick = False
            self._in_flight = 0
        if self._in_flight or self._noisy:
            self._shrink()
            self._transmit(now)
        else:
            self._put(now, DATA, LEAST)
        self._patience = max(self._patience, patience)

    def expect(self, waiting: bool, now: float) -> None:
        """Whether an answer, or more of one, is due. If not, the next thing that is sent tells the
        device what arrived."""
        self.waiting = waiting
        if waiting and self._owing and not self._in_flight:
            self._transmit(now)

    def send(self, data: bytes, now: float) -> None:
        self._pending += data
        if self.open and not self._in_flight:
            self._transmit(now)

    def feed(self, data: bytes, now: float) -> bytes:
        """What came over the line; gives what of the device's bytes is new."""
        if self._asked is not None:
            self._asked += len(data) * self._byte_s
        received = bytearray()
        *ended, rest = data.split(b"\0")
        for part in ended:
            self._coded += part
            if self._coded:
                received += self._frame(bytes(self._coded), now)
                self._coded.clear()
        self._coded += rest
        del self._coded[: -2 * LARGEST]  # noise
        return bytes(received)

    def _frame(self, coded: bytes, now: float) -> bytes:
        frame = unpack(coded)
        if frame is None:
            self._damaged(now)
            return b""
        kind, session, seq, ack, limit, payload = frame
        if session != self.session or self.lost:
            return b""
        if kind == UNKNOWN and self.open:
            self.lost = True
        elif kind == WELCOME and not self.open and limit >= LEAST:
            self.open = True
            self._most = self._limit = min(self._most, limit)
            if self._pending or self.waiting:
                self._transmit(now)
        elif kind == DATA and self.open:
            return self._data(seq, ack, payload, now)
        return b""

    def _data(self, seq: int, ack: int, payload: bytes, now: float) -> bytes:
        self._good += 1
        if self._good >= _GROW_AFTER:
            self._good = 0
            self._limit = min(2 * self._limit, self._most)
        taken = (ack - self._first_out) & 0xFFFF
        if 0 < taken <= self._exposed:
            del self._pending[:taken]
            self._exposed -= taken
            self.moved += taken
            self._first_out = ack
            self._in_flight = 0
            self._before = self._flying if taken == len(self._flying) else b""
        known = (self._next_in - seq) & 0xFFFF
        new = payload[known:] if known < len(payload) else b""
        self._next_in = (self._next_in + len(new)) & 0xFFFF
        self.moved += len(new)
        self._owing = self._owing or bool(new)
        if new and self._asked is not None:
            self._quick = now - self._asked < _QUICK_S
            self._asked = None
        if self._pending and not self._in_flight:
            self._transmit(now)
        return new

    def _damaged(self, now: float) -> None:
        """An answer that cannot be read: ask again, but not for each piece of noise."""
        if not self.open:
            return
        self._shrink()
        if self._in_flight or self.waiting:
            self._noisy = True
            self._patience = min(self._patience, now - self._sent + self._gap())

    def _shrink(self) -> None:
        self._good = 0
        self._quick = False
        self._limit = max(self._limit // 2, LEAST)

    def _gap(self) -> float:
        """What a short frame takes."""
        return 2.0 * (_OVERHEAD + LEAST) * self._byte_s + 0.001

    def _transmit(self, now: float) -> None:
        payload = bytes(self._pending[: self._limit])
        self._flying = payload or self._flying
        self._in_flight = len(payload)
        self._exposed = max(self._exposed, len(payload))
        question = bool(payload) and len(payload) == len(self._pending)
        self._put(now, ASK if question and self._quick else DATA, self._limit, payload)
        if question:
            self._asked = now + len(self.outgoing) * self._byte_s

    def _hello(self, now: float) -> None:
        self._put(now, HELLO, self._most)
        self._patience = max(self._patience, _HELLO_S)

    def _put(self, now: float, kind: int, limit: int, payload: bytes = b"") -> None:
        numbers = self.session, self._first_out, self._next_in, limit, payload
        frame = pack(kind, *numbers)
        if payload and self._before:
            frame = min(frame, pack(kind | CHANGES, *numbers, self._before), key=len)
        self.outgoing += frame
        self._owing = False
        self._sent = now
        self._noisy = False
        there_and_back = len(frame) + limit + _OVERHEAD
        self._patience = 1.5 * there_and_back * self._byte_s + 0.01
