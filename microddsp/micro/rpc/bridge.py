"""Between TVM's stock client and a device. A child process of `rpc.CreatePipeClient`.

    python -S -E bridge.py STATUS_FD TIMEOUT_S spawn COMMAND... READ_FD WRITE_FD
    python -S -E bridge.py STATUS_FD TIMEOUT_S uart COMMAND... READ_FD WRITE_FD
    python -S -E bridge.py STATUS_FD TIMEOUT_S serial PATH BAUD BREAK READ_FD WRITE_FD
    python -S -E bridge.py STATUS_FD TIMEOUT_S template FOLDER OPTIONS READ_FD WRITE_FD
    python -S -E bridge.py STATUS_FD TIMEOUT_S remote FD ARGUMENTS START_S READ_FD WRITE_FD

TVM appends the last two. An emulator, or a process that is the device, is started with two pipes,
or with a socket to its UART; a board is reached over a serial line; the server program of a third
party's project does either (`template_link.py`); a board of a farm is reached over a connection to
its server. The client trusts its peer: it
waits for ever and knows no broken device. So this process holds whole packets, and where the device
died or does not answer within the time it sends an RPC exception in its place, now and for every
later request. It ends with the client, and the emulator ends with it. STATUS_FD tells how it
started, then the device's log lines; where nobody reads it they wait for a client that asks.
Standard library only: it starts within milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import math
import os
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

DEBUG, INFO = 10, 20  # levels of Python's logging
LOG = 0x474F4C  # a packet of the device that is no answer: level, text
LINE_CHARACTERS = 400
LINES_KEPT = 1000
LINK_IN = 50  # the emulator's descriptors, as in the firmware's board.h
LINK_OUT = 51
_FAR = 100  # above both
SHUTDOWN = 1
LOG_LINES = b"microddsp.log_lines"  # our own function, see asides.py
EXCEPTION = 5
STRING = 8
CHUNK = 1 << 16
# Starting the emulator may take this long on a busy computer, whatever the device's own limit is.
START_S = 20.0
LINE_START_S = 5.0
EMULATED_BAUD = 115_200  # an emulated UART is not slower, whatever its rate is called
PARENT_CHECK_S = 1.0
STOOD_STILL_S = 0.1
# No device has more memory: a longer packet is none. Text gives such lengths.
DEVICE_BYTES = 2**32
_SHORTEST = 12  # of an answer: its length and its kind
SILENCE = "RPCSessionTimeoutError: no answer from the device for {:g} s, it was stopped"
FAULT = re.compile(r"DeviceFault: [^\n]*")  # the firmware's own last words
REGISTER = re.compile(r"(R1[345])=([0-9a-f]{8})")  # of the emulator's


def exception_packet(text: str) -> bytes:
    """What the client raises as an error with this text."""
    data = text.encode(errors="backslashreplace")
    body = struct.pack("<iiiQ", EXCEPTION, 1, STRING, len(data)) + data
    return struct.pack("<Q", len(body)) + body


class NoPacketError(Exception):
    """A stream of bytes has something else in it."""


class Packets:
    """Cuts a stream of bytes into whole packets, of up to `longest` bytes."""

    def __init__(self, longest: int = 2**63) -> None:
        self.longest = longest
        self._bytes = bytearray()

    @property
    def begun(self) -> int | None:
        """The kind of the packet that is not whole yet, once it is known."""
        return struct.unpack_from("<i", self._bytes, 8)[0] if len(self._bytes) >= 12 else None

    def feed(self, data: bytes) -> list[bytes]:
        self._bytes += data
        found = []
        while len(self._bytes) >= 8:
            end = 8 + struct.unpack_from("<Q", self._bytes)[0]
            if end > self.longest:
                raise NoPacketError(bytes(self._bytes[:32]))
            if len(self._bytes) < end:
                break
            found.append(bytes(self._bytes[:end]))
            del self._bytes[:end]
        return found


class Link(Protocol):
    """A way to a device. `start_s` and `answer_s` are what it may take at least to come up and to
    answer; `greets`: its first packet is empty and for us; `silence` is the error where it does not
    answer for so many seconds."""

    start_s: float
    answer_s: float
    greets: bool
    silence: str

    @property
    def process_id(self) -> int:
        """Of what is not the device's: an emulator; 0 if there is none."""

    @property
    def words(self) -> int:
        """What to wait on for `lines`; -1 for nothing."""

    @property
    def from_device(self) -> int:
        """What to wait on for `read`."""

    @property
    def to_device(self) -> int:
        """What to wait on for `write`."""

    @property
    def moved(self) -> int:
        """Bytes that went over the link, either way."""

    def send(self, packet: bytes) -> None:
        """Takes bytes, to be written as `wants_to_write` says."""

    def wants_to_write(self) -> bool: ...

    def write(self) -> None: ...

    def read(self) -> bytes | None:
        """What the device sent; None when it is gone."""

    def deadline(self) -> float | None:
        """When `tick` wants to be called, whatever happens."""

    def tick(self) -> None: ...

    def answer_is_due(self, due: bool) -> None:
        """Whether the device has something to say."""

    def lines(self) -> list[tuple[int, str]]:
        """Level and text of what was said beside the link."""

    def epitaph(self) -> str:
        """Ends it; why the device is gone."""

    def stop(self) -> int:
        """Ends it."""


class Program:
    """An emulator, or a process that is the device, and what it says."""

    def __init__(self, command: list[str], descriptors: dict[int, int]) -> None:
        """`descriptors`: what it has as which number; they are its own then."""
        self.words, said_there = os.pipe()
        their_words = _apart(said_there)
        given = (said_there, their_words, *descriptors.values())
        with _lent({theirs: _apart(ours) for theirs, ours in descriptors.items()}):
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=their_words,
                stderr=their_words,
                pass_fds=tuple(descriptors),
                preexec_fn=_die_with_parent,
            )
        for fd in given:
            os.close(fd)
        os.set_blocking(self.words, False)
        emulated = os.path.basename(command[0]).startswith("qemu")
        self._level = DEBUG if emulated else INFO  # what an emulator says is not the device's
        self._said = b""
        self._begun = b""  # a line without its end

    @property
    def process_id(self) -> int:
        return self.process.pid

    def stop(self) -> int:
        """End the emulator; its exit status."""
        self.process.kill()
        return self.process.wait()

    def lines(self) -> list[tuple[int, str]]:
        """Level and text of the lines that the process wrote to its terminal meanwhile."""
        try:
            said = os.read(self.words, CHUNK)
        except OSError:
            return []
        self._said = (self._said + said)[-CHUNK:]
        *whole, self._begun = (self._begun + said)[-CHUNK:].split(b"\n")
        texts = [line.decode(errors="replace").rstrip() for line in whole]
        return [(self._level, t) for t in texts if t]

    def epitaph(self) -> str:
        """Why the device is gone: what the emulator's end and its words tell."""
        self.lines()
        words = self._said.decode(errors="replace")
        status = self.stop()
        if status == 0:  # the firmware itself ends with others
            return "DeviceReset: the device was reset"
        lost = f"DeviceLost: the device stopped (status {status})"
        fault = FAULT.search(words)
        if fault:
            return f"{lost}: {fault[0]}"
        if "Lockup" in words:
            registers = dict(REGISTER.findall(words))
            sp, lr, pc = (registers.get(name, "0") for name in ("R13", "R14", "R15"))
            return f"{lost}: DeviceFault: pc=0x{pc} lr=0x{lr} sp=0x{sp}"
        lines = [line.strip() for line in words.splitlines() if line.strip()]
        lines = [line for line in lines if "warning:" not in line]
        named = [line for line in lines if line.startswith("qemu")]
        told = (named or lines[-1:] or [""])[0]
        return f"{lost}: {told}" if told else lost


class Device(Program):
    """An emulator, or a process that is the device, with its two pipes."""

    greets = True
    silence = SILENCE

    def __init__(self, command: list[str]) -> None:
        from_us, self.to_device = os.pipe()
        self.from_device, to_us = os.pipe()
        super().__init__(command, {LINK_IN: from_us, LINK_OUT: to_us})
        for fd in (self.to_device, self.from_device):
            os.set_blocking(fd, False)
        self.start_s = START_S
        self.answer_s = 0.0
        self.moved = 0  # bytes that went over the link, either way
        self._outgoing = bytearray()

    def send(self, packet: bytes) -> None:
        self._outgoing += packet

    def wants_to_write(self) -> bool:
        return bool(self._outgoing)

    def write(self) -> None:
        try:
            written = os.write(self.to_device, self._outgoing[:CHUNK])
        except OSError:
            return  # it is gone: reading from it says so
        del self._outgoing[:written]
        self.moved += written

    def read(self) -> bytes | None:
        """What the device sent; None when it is gone."""
        try:
            data = os.read(self.from_device, CHUNK)
        except BlockingIOError:
            return b""
        self.moved += len(data)
        return data or None

    def deadline(self) -> float | None:
        return None

    def tick(self) -> None:
        pass

    def answer_is_due(self, due: bool) -> None:
        pass


class Line:
    """A board at the other end of a serial line."""

    process_id = 0
    words = -1
    start_s = LINE_START_S
    answer_s = 0.0
    greets = True
    silence = SILENCE

    def __init__(self, fd: int, baud: int) -> None:
        from microddsp.micro.rpc.frames import Frames

        self.from_device = self.to_device = fd
        session = int.from_bytes(os.urandom(2), "little") or 1
        self._frames = Frames(session, baud, time.monotonic())

    @property
    def moved(self) -> int:
        """What is repeated is no progress."""
        return self._frames.moved

    def send(self, packet: bytes) -> None:
        self._frames.send(packet, time.monotonic())

    def wants_to_write(self) -> bool:
        return bool(self._frames.outgoing)

    def write(self) -> None:
        try:
            written = os.write(self.to_device, self._frames.outgoing[:CHUNK])
        except OSError:
            return
        del self._frames.outgoing[:written]

    def read(self) -> bytes | None:
        try:
            data = os.read(self.from_device, CHUNK)
        except BlockingIOError:
            return b""
        except OSError:
            return None  # it was unplugged
        received = self._frames.feed(data, time.monotonic())
        return None if self._frames.lost or not data else received

    def deadline(self) -> float | None:
        return self._frames.deadline()

    def tick(self) -> None:
        self._frames.tick(time.monotonic())

    def answer_is_due(self, due: bool) -> None:
        self._frames.expect(due, time.monotonic())

    def stop(self) -> int:
        os.close(self.from_device)
        return 0

    def lines(self) -> list[tuple[int, str]]:
        return []

    def epitaph(self) -> str:
        self.stop()
        if self._frames.lost:
            return "DeviceReset: the device was reset"
        return "DeviceLost: the device stopped (its serial port is gone)"


class EmulatedLine(Line):
    """The UART of an emulator, at the other end of a socket.

    What is sent before the firmware listens may stay in the emulator until something else happens,
    which may be never: the firmware's first byte is waited for.
    """

    start_s = START_S

    def __init__(self, command: list[str]) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._program = Program(command, {LINK_IN: theirs.detach()})
        self.words = self._program.words
        self.process_id = self._program.process_id
        super().__init__(ours.detach(), EMULATED_BAUD)
        self._listens = False

    def wants_to_write(self) -> bool:
        return self._listens and super().wants_to_write()

    def read(self) -> bytes | None:
        self._listens = True
        return super().read()

    def deadline(self) -> float | None:
        return super().deadline() if self._listens else None

    def tick(self) -> None:
        if self._listens:
            super().tick()

    def stop(self) -> int:
        super().stop()
        return self._program.stop()

    def lines(self) -> list[tuple[int, str]]:
        return self._program.lines()

    def epitaph(self) -> str:
        if self._frames.lost:
            return super().epitaph()
        return self._program.epitaph()


def _open_line(path: str, baud: int, break_resets: bool) -> Line:
    fd = _open_port(path, baud)
    if break_resets:
        termios.tcsendbreak(fd, 0)
    termios.tcflush(fd, termios.TCIOFLUSH)
    return Line(fd, baud)


def _open_port(path: str, baud: int) -> int:
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    if not os.isatty(fd):
        raise OSError(f"{path} is no serial port")
    speed = getattr(termios, f"B{baud}", None)
    if speed is None:
        os.close(fd)
        raise OSError(f"this system cannot set a port to {baud} baud")
    fcntl.ioctl(fd, termios.TIOCEXCL)
    tty.setraw(fd)
    settings = termios.tcgetattr(fd)
    settings[2] |= termios.CLOCAL | termios.CREAD
    settings[2] &= ~(termios.CRTSCTS | termios.CSTOPB | termios.HUPCL)
    settings[4] = settings[5] = speed
    termios.tcsetattr(fd, termios.TCSANOW, settings)
    return fd


class Bridge:
    """Relays packets and speaks for a device that cannot."""

    def __init__(
        self, device: Link, status: int, requests: int, replies: int, timeout_s: float
    ) -> None:
        self.device = device
        self.status = status
        self.requests = requests
        self.replies = replies
        self.timeout_s = max(timeout_s, device.answer_s)
        self.asked = Packets()
        self.answered = Packets(DEVICE_BYTES)
        self.held = bytearray()  # for a device that is not up yet
        self.ready = not device.greets  # the device listens
        self.up = False  # it has said so, or answered
        self.waiting = False  # the client waits for an answer
        self.dead = ""  # why there is no device any more
        self.progress = time.monotonic()
        self.moved = 0
        self.kept: deque[tuple[int, str]] = deque(maxlen=LINES_KEPT)
        self.asides = False  # the client asks for what is kept
        os.set_blocking(status, False)

    def run(self) -> None:
        parent = os.getppid()
        device = self.device
        while os.getppid() == parent:
            reading = [self.requests]
            writing = []
            if not self.dead:
                reading += [fd for fd in (device.from_device, device.words) if fd >= 0]
                writing = [device.to_device] if device.wants_to_write() else []
            patience = self._patience()
            due = time.monotonic() + patience
            readable, writable, _ = select.select(reading, writing, [], patience)
            late = time.monotonic() - due
            if late > STOOD_STILL_S:  # we were not run, nor perhaps an emulator: no time of its own
                self.progress += late
            if self.requests in readable and not self._from_client():
                return
            if self.dead:
                continue
            if writable:
                device.write()
            if device.words in readable:
                self._tell(device.lines())
            if device.from_device in readable:
                before = device.moved
                if not self._from_device():
                    self.moved += device.moved - before
            if device.moved != self.moved:
                self.moved = device.moved
                self.progress = time.monotonic()
            if self.waiting and time.monotonic() >= self._deadline():
                self._give_up(device.silence.format(self._limit()))
                continue
            if not self.dead:
                device.answer_is_due(self.waiting or not self.ready)
                device.tick()

    def _limit(self) -> float:
        return self.timeout_s if self.up else max(self.device.start_s, self.timeout_s)

    def _deadline(self) -> float:
        return self.progress + self._limit()

    def _patience(self) -> float:
        if self.dead:
            return PARENT_CHECK_S
        times = [self._deadline()] if self.waiting else []
        due = self.device.deadline()
        if due is not None:
            times.append(due)
        left = min(times, default=math.inf) - time.monotonic()
        return max(0.0, min(PARENT_CHECK_S, left))

    def _from_client(self) -> bool:
        """False when the client is gone."""
        data = os.read(self.requests, CHUNK)
        if not data:
            return False
        for packet in self.asked.feed(data):
            if len(packet) >= 12 and struct.unpack_from("<i", packet, 8)[0] == SHUTDOWN:
                return False
            aside = self._aside(packet)
            if aside:
                write_all(self.replies, aside)
                continue
            if self.dead:
                write_all(self.replies, exception_packet(self.dead))
                continue
            self.waiting = True
            self.progress = time.monotonic()
            if self.ready:
                self.device.send(packet)
            else:
                self.held += packet
        return True

    def _aside(self, packet: bytes) -> bytes | None:
        """The answer to a request that is for us and not for the device."""
        self.asides = self.asides or packet.endswith(LOG_LINES)
        if not self.asides or not self.device.greets:
            return None  # a server answers for its own bridge
        _find_package()
        from microddsp.micro.rpc import asides

        if asides.calls(packet) and not self.dead:
            self._tell(self.device.lines())
        said = asides.answer(packet, self.kept)
        if asides.calls(packet):
            self.kept.clear()
        return said

    def _from_device(self) -> bool:
        """False where only log lines came: a loop without end may write them."""
        data = self.device.read()
        if data is None:
            self._tell(self.device.lines())
            self._give_up(self.device.epitaph())
            return True
        try:
            packets = self.answered.feed(data)
            news = [self._takes(packet) for packet in packets]
        except NoPacketError as error:
            self._give_up(f"DeviceLost: the device sent what is no answer: {error.args[0]!r}")
            self.device.stop()
            return True
        return any(news) if packets else self.answered.begun != LOG

    def _takes(self, packet: bytes) -> bool:
        """False for a log line.

        Raises:
            NoPacketError: Nobody asked, or there is nothing in it: the client would not take it,
                and wait for another one for ever, or take it for the answer to its next request.
        """
        if len(packet) >= 16 and struct.unpack_from("<i", packet, 8)[0] == LOG:
            level = struct.unpack_from("<i", packet, 12)[0]
            text = packet[16:].decode(errors="replace")
            self._tell([(level, line) for line in text.splitlines()])
            return False
        if not self.ready:  # the first packet is empty and for us
            self.ready = self.up = True
            self.device.send(bytes(self.held))
            return True
        if not self.waiting or len(packet) < _SHORTEST:
            raise NoPacketError(packet[:32])
        self.waiting = False
        self.up = True
        write_all(self.replies, packet)
        return True

    def _tell(self, lines: list[tuple[int, str]]) -> None:
        """Log lines for whoever reads our status, or else asks for them; the oldest are lost where
        there is no room."""
        for level, line in lines:
            try:
                text = f"log {level} {line[:LINE_CHARACTERS]}\n"
                os.write(self.status, text.encode(errors="backslashreplace"))
            except OSError:
                self.kept.append((level, line[:LINE_CHARACTERS]))

    def _give_up(self, why: str) -> None:
        if not self.dead:
            self.dead = why
            if "Timeout" in why:
                self.device.stop()
        if self.waiting:
            self.waiting = False
            write_all(self.replies, exception_packet(why))


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _die_with_parent() -> None:
    # 1 is PR_SET_PDEATHSIG; a lockup of the device must not leave a core dump either
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _apart(fd: int) -> int:
    """A copy far from the numbers that devices have."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FAR)


@contextlib.contextmanager
def _lent(descriptors: dict[int, int]) -> Iterator[None]:
    """Each of ours as the number that it has there, for the time of a start; what has that number
    here comes back."""
    before = {}
    for theirs in descriptors:
        with contextlib.suppress(OSError):  # nothing has it
            before[theirs] = (_apart(theirs), os.get_inheritable(theirs))
    for theirs, ours in descriptors.items():
        os.dup2(ours, theirs)
        os.close(ours)
    try:
        yield
    finally:
        for theirs in descriptors:
            if theirs in before:
                kept, inherited = before[theirs]
                os.dup2(kept, theirs, inherited)
                os.close(kept)
            else:
                os.close(theirs)


def _own_descriptors(ours: list[int]) -> list[int]:
    """Ours alone, and far from those of the emulator.

    The client's descriptors have no CLOEXEC: we were given those of other sessions too, and their
    peers would not see an end while we hold them.
    """
    kept = [_apart(fd) for fd in ours]
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in kept:
            try:
                os.close(fd)
            except OSError:
                pass  # the listing's own
    return kept


def main(arguments: list[str]) -> None:
    os.setsid()  # Ctrl-C is for the client, which then closes the session
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # an orderly end: the emulator first
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    ours = [int(arguments[0]), int(arguments[-2]), int(arguments[-1])]
    if arguments[2] == "remote":
        ours.append(int(arguments[3]))
    status, requests, replies, *connection = _own_descriptors(ours)
    if connection:
        arguments[3] = str(connection[0])
    try:
        device = start_link(arguments[2], arguments[3:-2])
    except (OSError, termios.error) as error:
        with contextlib.suppress(BrokenPipeError):  # the client is gone
            text = f"error {os.getpid()} {' '.join(str(error).split())}\n"
            write_all(status, text.encode(errors="backslashreplace"))
        return
    bridge = Bridge(device, status, requests, replies, float(arguments[1]))
    try:
        write_all(status, f"started {os.getpid()} {device.process_id or ''}\n".encode())
        bridge.run()
    except BrokenPipeError:
        pass  # the client is gone
    finally:
        if not bridge.dead:
            device.stop()


def _find_package() -> None:
    """Let what is not always needed be imported."""
    root = str(Path(__file__).parents[3])
    if root not in sys.path:
        sys.path.insert(0, root)


def start_link(kind: str, arguments: list[str]) -> Link:
    """The device, as the arguments of `bridge.py` say.

    Raises:
        OSError, termios.error: It is not there.
    """
    if kind == "spawn":
        return Device(arguments)
    _find_package()
    if kind == "template":
        from microddsp.micro.rpc.template_link import TemplateLink

        return TemplateLink(Path(arguments[0]), arguments[1])
    if kind == "uart":
        return EmulatedLine(arguments)
    if kind == "remote":
        from microddsp.micro.rpc.remote import Remote

        return Remote(int(arguments[0]), Path(arguments[1]), float(arguments[2]))
    return _open_line(arguments[0], int(arguments[1]), arguments[2] == "yes")


if __name__ == "__main__":
    main(sys.argv[1:])
