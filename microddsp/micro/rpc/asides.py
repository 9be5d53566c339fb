"""What a bridge answers itself: the device's log lines, to a client that has no pipe for them.

A bridge on a farm's server has no way to its client but the answers to requests. So it has one
function of its own, which a client finds among those of the device. Standard library only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

FUNCTION = "microddsp.log_lines"
_HANDLE = 0x6C6F_6773 << 32  # no address of a device's function: those have 32 bits
_CALL, _RETURN, _GET_FUNCTION, _FREE_HANDLE = 3, 4, 9, 10
_NONE, _INT, _POINTER, _STRING, _STRING_OBJECT = 0, 1, 4, 8, 65


def answer(packet: bytes, kept: Iterable[tuple[int, str]]) -> bytes | None:
    """The answer to a request that is for the bridge; None for one of the device.

    The function gives the lines `kept`, "LEVEL text" each. The caller forgets them then.
    """
    code = struct.unpack_from("<i", packet, 8)[0] if len(packet) >= 12 else 0
    if code == _GET_FUNCTION and packet.endswith(_string(FUNCTION)):
        return _packet(1, struct.pack("<iQ", _POINTER, _HANDLE))
    if code == _FREE_HANDLE and packet.endswith(struct.pack("<Q", _HANDLE)):
        return _packet(1, struct.pack("<i", _NONE))
    if calls(packet):
        lines = "".join(f"{level} {line}\n" for level, line in kept)
        return _packet(2, struct.pack("<iq", _INT, _STRING_OBJECT) + _string(lines))
    return None


def calls(packet: bytes) -> bool:
    """Whether the packet is a call of the bridge's function."""
    return packet[8:20] == struct.pack("<iQ", _CALL, _HANDLE)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<iQ", _STRING, len(data)) + data


def _packet(count: int, values: bytes) -> bytes:
    body = struct.pack("<ii", _RETURN, count) + values
    return struct.pack("<Q", len(body)) + body
