"""Random and mutated packets against the server, on this computer built with the sanitizers for
addresses and for undefined behaviour, and on an emulated board: no crash, no hang, and the session
goes on."""

from __future__ import annotations

import os
import random
import select
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.link.line import line_board
from microddsp.micro.boards import find_board
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.platforms import build_project, create_project, read_project
from microddsp.micro.rpc.bridge import LOG, Device, Packets
from microddsp.micro.rpc.frames import HELLO, WELCOME, pack, unpack
from microddsp.micro.rpc.start import qemu_command

Maker = Callable[..., CompiledModel]

(SHUTDOWN, INIT, CALL, RETURN, EXCEPTION, COPY_FROM, COPY_TO, COPY_ACK, GET_FUNCTION) = range(1, 10)
FREE_HANDLE, GET_ATTRIBUTE, ALLOC, FREE, COPY_ON_DEVICE, ALLOC_SCOPE = 10, 12, 13, 14, 16, 17
INT, POINTER, DEVICE, TENSOR, STRING, BYTES = 1, 4, 6, 7, 8, 9
EVALUATORS = 0x0E000000
SANITIZERS = "EXTRA=-fsanitize=address,undefined -fno-sanitize-recover=all -O1"
ANSWER_S = 20.0
EDGES = [0, 1, 2, 7, 8, 16, 24, 25, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1]
EDGES += [2**32, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1]


def built_with_sanitizers(model: CompiledModel, folder: Path, board: str) -> Path:
    create_project(folder, model, find_board(board))
    done = subprocess.run(
        ["make", "-s", SANITIZERS], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return read_project(folder).image


class Server:
    """Packets to the device, whole answers back."""

    def __init__(self, command: list[str]) -> None:
        self.device = Device(command)
        self.packets = Packets()
        self.waiting: list[bytes] = []
        assert self.receive() == b""

    def receive(self) -> bytes:
        while True:
            while not self.waiting:
                ready = select.select([self.device.from_device], [], [], ANSWER_S)[0]
                data = os.read(self.device.from_device, 1 << 20) if ready else b""
                if not data:
                    said = "\n".join(text for _, text in self.device.lines())
                    raise AssertionError(f"{'no answer' if not ready else 'the end'}: {said}")
                self.waiting += self.packets.feed(data)
            packet = self.waiting.pop(0)[8:]
            if struct.unpack_from("<i", packet.ljust(4))[0] != LOG:
                return packet

    def ask(self, body: bytes) -> tuple[int, bytes]:
        """The request's body begins with its code."""
        view = memoryview(struct.pack("<Q", len(body)) + body)
        while view:
            select.select([], [self.device.to_device], [], ANSWER_S)
            view = view[os.write(self.device.to_device, view) :]
        reply = self.receive()
        return struct.unpack_from("<i", reply)[0], reply[4:]

    def pointer(self, body: bytes) -> int:
        code, reply = self.ask(body)
        assert code == RETURN
        return int(struct.unpack("<iiQ", reply)[2])


def text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


INIT_REQUEST = struct.pack("<i", INIT) + text(b"0.8.0") + struct.pack("<i", 0)


def get_function(name: bytes) -> bytes:
    return struct.pack("<iii", GET_FUNCTION, 1, STRING) + text(name)


def allocate(nbytes: int) -> bytes:
    return struct.pack("<iiiiiiqiqiii", ALLOC, 4, DEVICE, 1, 0, INT, nbytes, INT, 64, INT, 2, 0)


def tensor(address: int, *shape: int, bits: int = 32, code: int = 2, offset: int = 0) -> bytes:
    head = struct.pack("<QiiiBBH", address, 1, 0, len(shape), code, bits, 1)
    return head + struct.pack(f"<{len(shape)}q", *shape) + struct.pack("<Q", offset)


def argument(value: bytes) -> bytes:
    return struct.pack("<i", TENSOR) + value


def seeds(server: Server) -> list[bytes]:
    """Requests that are right, one of each kind; functions and memory are really there."""
    server.ask(INIT_REQUEST)
    x, y, ticks = (server.pointer(allocate(256)) for _ in range(3))
    names = (b"process", b"process_bytes", b"reset", b"time_blocks", b"profile_blocks")
    names += (b"stack_high_water",)
    handles = {name: server.pointer(get_function(name)) for name in names}
    evaluator = server.pointer(get_function(b"runtime.RPCTimeEvaluator"))
    pair = argument(tensor(x, 1, 8)) + argument(tensor(y, 1, 8))
    timed = argument(tensor(x, 2, 8)) + argument(tensor(y, 1, 8))
    timed += argument(tensor(ticks, 2, code=0))
    block = struct.pack("<i", BYTES) + text(bytes(range(32)))
    block += argument(tensor(y, 32, bits=8, code=1))
    bad = struct.pack("<iiiii", 2, DEVICE, 1, 0, POINTER)

    def call(handle: int, count: int, arguments: bytes = b"") -> bytes:
        return struct.pack("<iQi", CALL, handle, count) + arguments

    module = struct.pack("<iQ", POINTER, 0) + struct.pack("<i", STRING) + text(b"process")
    numbers = struct.pack("<iqiq", INT, 1, INT, 0) + struct.pack("<iqiqiqiq", *(INT, 2) * 4)
    return [
        *map(get_function, names),
        allocate(64),
        struct.pack("<i", FREE) + bad + struct.pack("<Q", 0),
        struct.pack("<i", ALLOC_SCOPE) + struct.pack("<i", 2) + pair[: len(pair) // 2] + b"\0" * 4,
        call(handles[b"process"], 2, pair),
        call(handles[b"process_bytes"], 2, block),
        call(handles[b"reset"], 0),
        call(handles[b"time_blocks"], 3, timed),
        call(handles[b"profile_blocks"], 3, timed),
        call(handles[b"stack_high_water"], 2, pair),
        call(evaluator, 8, module + numbers),
        struct.pack("<i", COPY_TO) + tensor(x, 1, 8) + struct.pack("<Q", 32) + bytes(range(32)),
        struct.pack("<i", COPY_FROM) + tensor(y, 1, 8) + struct.pack("<Q", 32),
        struct.pack("<ii", COPY_ON_DEVICE, 2) + pair,
        struct.pack("<iiiiiiq", GET_ATTRIBUTE, 2, DEVICE, 1, 0, INT, 15),
        struct.pack("<iiiQ", FREE_HANDLE, 1, POINTER, handles[b"reset"]),
        INIT_REQUEST,
    ]


def mutated(dice: random.Random, packet: bytes) -> bytes:
    data = bytearray(packet)
    for _ in range(dice.choice([0, 1, 1, 1, 2, 4])):
        kind = dice.randrange(7)
        at = dice.randrange(len(data) + 1)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[at : at + 4] = struct.pack("<I", dice.choice(EDGES) & (2**32 - 1))
        elif kind == 2:
            data[at : at + 8] = struct.pack("<Q", dice.choice(EDGES))
        elif kind == 3:
            del data[at : at + dice.randrange(1, 24)]
        elif kind == 4:
            data[at:at] = dice.randbytes(dice.randrange(1, 24))
        elif kind == 5:
            data[at:at] = data[: dice.randrange(1, 64)]
        elif kind == 6 and at < len(data):
            data[at] = (data[at] + dice.choice([1, 255])) % 256
    if dice.random() < 0.05:
        data = bytearray(dice.randbytes(dice.randrange(0, 200)))
        data[:4] = struct.pack("<i", dice.randrange(0, 24))
    return bytes(data)


def allowed(packet: bytes) -> bool:
    """A shutdown and nothing have no answer. A call that is to be repeated a billion times takes
    its time: the client's time limit is for that."""
    if len(packet) < 4:
        return False
    code = struct.unpack_from("<i", packet)[0]
    if code == CALL and len(packet) >= 12:
        return struct.unpack_from("<Q", packet, 4)[0] & 0xFF000000 != EVALUATORS
    return bool(code != SHUTDOWN)


def fuzz(server: Server, count: int, seed: int) -> None:
    dice = random.Random(seed)
    right = seeds(server)
    kinds = {RETURN: 0, EXCEPTION: 0, COPY_ACK: 0}
    for i in range(count):
        packet = mutated(dice, dice.choice(right))
        if not allowed(packet):
            continue
        code, reply = server.ask(packet)
        assert code in kinds, (i, packet)
        assert b"DeviceFault" not in reply, (i, packet, reply)
        kinds[code] += 1
        if i % 100 == 99 or (code == RETURN and packet[:4] == INIT_REQUEST[:4]):
            right = seeds(server)  # a session begins, as with a client that comes anew
    assert min(kinds.values()) > count // 200, kinds  # all of the server was there
    check_that_it_works(server)


def check_that_it_works(server: Server) -> None:
    server.ask(INIT_REQUEST)
    x, y = (server.pointer(allocate(32)) for _ in range(2))
    process, reset = (server.pointer(get_function(name)) for name in (b"process", b"reset"))
    assert server.ask(struct.pack("<iQi", CALL, reset, 0))[0] == RETURN
    ones = struct.pack("<8f", *[1.0] * 8)
    assert server.ask(struct.pack("<i", COPY_TO) + tensor(x, 1, 8) + text(ones))[0] == RETURN
    pair = argument(tensor(x, 1, 8)) + argument(tensor(y, 1, 8))
    assert server.ask(struct.pack("<iQi", CALL, process, 2) + pair)[0] == RETURN
    code, data = server.ask(struct.pack("<i", COPY_FROM) + tensor(y, 1, 8) + struct.pack("<Q", 32))
    assert code == COPY_ACK
    assert struct.unpack("<8f", data) == tuple(map(float, range(1, 9)))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    probe: Maker = request.getfixturevalue("probe")
    return built_with_sanitizers(probe(), tmp_path_factory.mktemp("asan"), "host")


@pytest.fixture
def server(image: Path) -> Iterator[Server]:
    started = Server([str(image)])
    yield started
    started.device.stop()


@pytest.fixture(scope="module")
def emulated_image(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    probe: Maker = request.getfixturevalue("probe")
    folder = tmp_path_factory.mktemp("emulated")
    create_project(folder, probe(), find_board("mps2-an386"))
    return build_project(folder)


@pytest.fixture
def emulated(emulated_image: Path) -> Iterator[Server]:
    started = Server(qemu_command(find_board("mps2-an386"), emulated_image))
    yield started
    started.device.stop()


def test_the_sanitizer_is_really_there(image: Path) -> None:
    assert b"__asan_init" in image.read_bytes()
    assert b"__ubsan_handle" in image.read_bytes()


def test_packets_that_are_right_are_answered(server: Server) -> None:
    codes = [server.ask(packet)[0] for packet in seeds(server)]
    assert codes.count(EXCEPTION) == 2  # a free of nothing, a profile that is not built in
    check_that_it_works(server)


def test_a_room_for_outputs_that_is_not_aligned_is_refused(server: Server) -> None:
    server.ask(INIT_REQUEST)
    memory = server.pointer(allocate(64))
    function = server.pointer(get_function(b"process_bytes"))
    for offset, wanted in ((0, RETURN), (8, RETURN), (1, EXCEPTION), (4, EXCEPTION)):
        room = argument(tensor(memory, 32, bits=8, code=1, offset=offset))
        block = struct.pack("<i", BYTES) + text(bytes(32))
        code, reply = server.ask(struct.pack("<iQi", CALL, function, 2) + block + room)
        assert code == wanted
        assert (b"room: tensor is not aligned" in reply) == (wanted == EXCEPTION)


def test_mutated_packets_do_no_harm(server: Server) -> None:
    fuzz(server, 2000, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_very_many_mutated_packets_do_no_harm(server: Server, seed: int) -> None:
    fuzz(server, 25_000, seed)


@pytest.mark.qemu
def test_mutated_packets_do_no_harm_to_a_processor(emulated: Server) -> None:
    fuzz(emulated, 2000, seed=1)


@pytest.mark.slow
@pytest.mark.qemu
@pytest.mark.parametrize("seed", range(2, 6))
def test_very_many_mutated_packets_do_no_harm_to_a_processor(emulated: Server, seed: int) -> None:
    fuzz(emulated, 25_000, seed)


# ---- the serial line's bytes ----


@pytest.fixture(scope="module")
def line_image(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    probe: Maker = request.getfixturevalue("probe")
    folder = tmp_path_factory.mktemp("asan-line")
    (folder / "behind-a-line.toml").write_text(line_board(4_000_000))
    return built_with_sanitizers(probe(), folder / "fw", str(folder / "behind-a-line.toml"))


def fuzz_line(image: Path, count: int, seed: int) -> None:
    dice = random.Random(seed)
    device = subprocess.Popen([image], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert device.stdin and device.stdout
    os.set_blocking(device.stdout.fileno(), False)
    for i in range(1, count + 1):
        payload = dice.randbytes(dice.randrange(dice.choice([64, 1030])))
        session = dice.choice([0, 1, i & 0xFFFF])
        kind = dice.choice([0x31, 0x33, 0x33, 0x33, 0x34, dice.randrange(256)])
        seq, ack = dice.choice([0, 1, 65535, len(payload)]), dice.choice([0, 8, 65535])
        frame = pack(kind, session, seq, ack, dice.choice([0, 8, 1024, 65535]), payload)
        if dice.random() < 0.7:
            frame = mutated(dice, frame)
        device.stdin.write(frame)
        device.stdin.flush()
        if i % 50 == 0:
            assert welcomed(device, 1000 + i % 60000), f"after {i} frames"
    device.kill()
    device.communicate()


def welcomed(device: subprocess.Popen[bytes], session: int) -> bool:
    """Whether a new session is answered; what the noise was answered comes first."""
    assert device.stdin and device.stdout
    device.stdin.write(pack(HELLO, session, 0, 0, 1024))
    device.stdin.flush()
    seen = b""
    while select.select([device.stdout], [], [], ANSWER_S)[0]:
        data = os.read(device.stdout.fileno(), 1 << 16)
        if not data:
            return False
        seen += data
        frames = [unpack(coded) for coded in seen.split(b"\0") if coded]
        if any(f is not None and f[:2] == (WELCOME, session) for f in frames):
            return True
    return False


def test_noise_on_the_line_does_no_harm(line_image: Path) -> None:
    fuzz_line(line_image, 1000, seed=1)


@pytest.mark.slow
def test_much_noise_on_the_line_does_no_harm(line_image: Path) -> None:
    fuzz_line(line_image, 50_000, seed=2)
