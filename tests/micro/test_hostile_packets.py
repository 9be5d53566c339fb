"""The device's parser against a host that lies about lengths: an error each time, no crash."""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from microddsp.micro.boards import find_board
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.platforms import build_project, create_project
from microddsp.micro.rpc.bridge import Device, Packets
from microddsp.micro.rpc.start import qemu_command

pytestmark = pytest.mark.qemu
Maker = Callable[..., CompiledModel]

INIT, CALL, COPY_FROM, COPY_TO, GET_FUNCTION, ALLOC, FREE = 2, 3, 6, 7, 9, 13, 14
RETURN, EXCEPTION = 4, 5
INT, POINTER, DEVICE, TENSOR, STRING = 1, 4, 6, 7, 8
HUGE = 2**64 - 1


class Talk:
    """Packets straight to the firmware."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.packets = Packets()
        self.waiting: list[bytes] = []
        assert self.receive() == b""

    def receive(self) -> bytes:
        while not self.waiting:
            assert select.select([self.device.from_device], [], [], 5.0)[0], "no answer"
            data = os.read(self.device.from_device, 65536)
            assert data, "the device stopped"
            self.waiting += self.packets.feed(data)
        return self.waiting.pop(0)[8:]

    def ask(self, code: int, body: bytes, claimed: int | None = None) -> tuple[int, bytes]:
        length = 4 + len(body) if claimed is None else claimed
        os.write(self.device.to_device, struct.pack("<Qi", length, code) + body)
        reply = self.receive()
        return struct.unpack_from("<i", reply)[0], reply[4:]


@pytest.fixture(scope="module")
def talk(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Talk]:
    probe: Maker = request.getfixturevalue("probe")
    folder: Path = tmp_path_factory.mktemp("fw")
    create_project(folder, probe())
    device = Device(qemu_command(find_board("mps2-an386"), build_project(folder)))
    yield Talk(device)
    device.stop()


def text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def tensor(address: int, ndim: int, shape: tuple[int, ...], offset: int = 0) -> bytes:
    head = struct.pack("<QiiiBBH", address, 1, 0, ndim, 2, 32, 1)
    return head + struct.pack(f"<{len(shape)}q", *shape) + struct.pack("<Q", offset)


LIES = {
    "init with an endless version": (INIT, struct.pack("<Q", HUGE)),
    "init of another protocol": (INIT, text(b"0.9.9") + struct.pack("<i", 0)),
    "init cut short": (INIT, struct.pack("<Q", 5) + b"0."),
    "call of nothing": (CALL, struct.pack("<Qi", 0x1234, 0)),
    "call with an upper half": (CALL, struct.pack("<Qi", 0x0F00000100000001, 0)),
    "call with minus one arguments": (CALL, struct.pack("<Qi", 0x0F000001, -1)),
    "call with a billion arguments": (CALL, struct.pack("<Qi", 0x0F000001, 10**9)),
    "call without its arguments": (CALL, struct.pack("<Qi", 0x0F000001, 5)),
    "argument of no type": (CALL, struct.pack("<Qii", 0x0F000001, 1, 999)),
    "text longer than memory": (GET_FUNCTION, struct.pack("<iiQ", 1, STRING, HUGE)),
    "text longer than the packet": (GET_FUNCTION, struct.pack("<iiQ", 1, STRING, 100) + b"abc"),
    "text of 2**64 - 8": (GET_FUNCTION, struct.pack("<iiQ", 1, STRING, 2**64 - 8) + b"abc"),
    "function of a number": (GET_FUNCTION, struct.pack("<iiq", 1, INT, 5)),
    "function of nothing": (GET_FUNCTION, struct.pack("<i", 0)),
    "copy to minus one dimensions": (COPY_TO, tensor(0x20100000, -1, ())),
    "copy to many dimensions": (COPY_TO, tensor(0x20100000, 10**6, (1,) * 4)),
    "copy to address 0": (COPY_TO, tensor(0, 1, (4,)) + struct.pack("<Q", 16) + b"x" * 16),
    "copy to the stack": (
        COPY_TO,
        tensor(0x20000000, 1, (4,)) + struct.pack("<Q", 16) + b"x" * 16,
    ),
    "copy over the end": (COPY_TO, tensor(0x203FFFF0, 1, (8,)) + struct.pack("<Q", 32) + b"x" * 32),
    "copy of more than is there": (COPY_TO, tensor(0x20100000, 1, (4,)) + struct.pack("<Q", 99)),
    "copy with an endless offset": (
        COPY_TO,
        tensor(0x20100000, 1, (4,), HUGE) + struct.pack("<Q", 16) + b"x" * 16,
    ),
    "copy from everywhere": (COPY_FROM, tensor(0x20100000, 1, (4,)) + struct.pack("<Q", HUGE)),
    "copy from a 64-bit address": (COPY_FROM, tensor(2**40, 1, (4,)) + struct.pack("<Q", 16)),
    "allocation of everything": (
        ALLOC,
        struct.pack("<iiiiiQ", 2, DEVICE, 1, 0, INT, HUGE),
    ),
    "free of the stack": (FREE, struct.pack("<iiiiiQ", 2, DEVICE, 1, 0, POINTER, 0x20000010)),
    "free of an odd address": (FREE, struct.pack("<iiiiiQ", 2, DEVICE, 1, 0, POINTER, 0x20100001)),
    "request of no code": (77, struct.pack("<i", 0)),
    "request of code -1": (-1, struct.pack("<i", 0)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_answered_with_an_error(talk: Talk, lie: str) -> None:
    code, body = LIES[lie]
    assert talk.ask(code, body)[0] == EXCEPTION
    # and the stream is still in step
    version = text(b"0.8.0") + struct.pack("<i", 0)
    assert talk.ask(INIT, version)[0] == RETURN
    name = struct.pack("<iiQ", 1, STRING, 7) + b"process"
    code, reply = talk.ask(GET_FUNCTION, name)
    assert code == RETURN
    assert struct.unpack("<iiQ", reply)[2] != 0


def test_a_packet_without_a_code_is_answered(talk: Talk) -> None:
    os.write(talk.device.to_device, struct.pack("<Q", 2) + b"ab")
    assert struct.unpack_from("<i", talk.receive())[0] == EXCEPTION
    os.write(talk.device.to_device, struct.pack("<Q", 0))  # empty: nothing to answer
    assert talk.ask(77, struct.pack("<i", 0))[0] == EXCEPTION
