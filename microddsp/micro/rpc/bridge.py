"""Between TVM's stock client and an emulated device. A child process of `rpc.CreatePipeClient`.

    python -S -E bridge.py STATUS_FD TIMEOUT_S QEMU_COMMAND... READ_FD WRITE_FD

TVM appends the last two. The client trusts its peer: it waits for ever and knows no broken device.
So this process holds whole packets, and where the device died or does not answer within the time
it sends an RPC exception in its place, now and for every later request. It ends with the client,
and the emulator ends with it. Standard library only: it starts within milliseconds.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import time

LINK_IN = 50  # the emulator's descriptors, as in the firmware's board.h
LINK_OUT = 51
SHUTDOWN = 1
EXCEPTION = 5
STRING = 8
CHUNK = 1 << 16
# Starting the emulator may take this long on a busy computer, whatever the device's own limit is.
START_S = 20.0
PARENT_CHECK_S = 1.0
FAULT = re.compile(r"DeviceFault: [^\n]*")  # the firmware's own last words
REGISTER = re.compile(r"(R1[345])=([0-9a-f]{8})")  # of the emulator's


def exception_packet(text: str) -> bytes:
    """What the client raises as an error with this text."""
    data = text.encode()
    body = struct.pack("<iiiQ", EXCEPTION, 1, STRING, len(data)) + data
    return struct.pack("<Q", len(body)) + body


class Packets:
    """Cuts a stream of bytes into whole packets."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        self._bytes += data
        found = []
        while len(self._bytes) >= 8:
            end = 8 + struct.unpack_from("<Q", self._bytes)[0]
            if len(self._bytes) < end:
                break
            found.append(bytes(self._bytes[:end]))
            del self._bytes[:end]
        return found


class Device:
    """The emulator with its two pipes."""

    def __init__(self, command: list[str]) -> None:
        from_us, self.to_device = os.pipe()
        self.from_device, to_us = os.pipe()
        self.words, their_words = os.pipe()
        os.dup2(from_us, LINK_IN)
        os.dup2(to_us, LINK_OUT)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=their_words,
            stderr=their_words,
            pass_fds=(LINK_IN, LINK_OUT),
            preexec_fn=_die_with_parent,
        )
        for fd in (from_us, to_us, their_words, LINK_IN, LINK_OUT):
            os.close(fd)
        for fd in (self.to_device, self.from_device, self.words):
            os.set_blocking(fd, False)

    def stop(self) -> int:
        """End the emulator; its exit status."""
        self.process.kill()
        return self.process.wait()

    def epitaph(self) -> str:
        """Why the device is gone: what the emulator's end and its words tell."""
        words = self._last_words()
        status = self.stop()
        if status == 0:  # the firmware itself ends with others
            return "DeviceReset: the device was reset"
        lost = f"DeviceLost: the device stopped (emulator's status {status})"
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

    def _last_words(self) -> str:
        try:
            return os.read(self.words, CHUNK).decode(errors="replace")
        except OSError:
            return ""


class Bridge:
    """Relays packets and speaks for a device that cannot."""

    def __init__(self, device: Device, requests: int, replies: int, timeout_s: float) -> None:
        self.device = device
        self.requests = requests
        self.replies = replies
        self.timeout_s = timeout_s
        self.asked = Packets()
        self.answered = Packets()
        self.outgoing = bytearray()
        self.ready = False  # the device has said that it is up
        self.waiting = False  # the client waits for an answer
        self.dead = ""  # why there is no device any more
        self.progress = time.monotonic()

    def run(self) -> None:
        parent = os.getppid()
        while os.getppid() == parent:
            reading = [self.requests] if self.dead else [self.requests, self.device.from_device]
            sending = self.ready and self.outgoing and not self.dead
            writing = [self.device.to_device] if sending else []
            readable, writable, _ = select.select(reading, writing, [], self._patience())
            if self.requests in readable and not self._from_client():
                return
            if self.dead:
                continue
            if writable:
                self._to_device()
            if self.device.from_device in readable:
                self._from_device()
            elif self.waiting and time.monotonic() >= self._deadline():
                self._give_up(
                    f"RPCSessionTimeoutError: no answer from the device for {self.timeout_s:g} s, "
                    "it was stopped"
                )

    def _deadline(self) -> float:
        return self.progress + (self.timeout_s if self.ready else max(START_S, self.timeout_s))

    def _patience(self) -> float:
        if self.dead or not self.waiting:
            return PARENT_CHECK_S
        return max(0.0, min(PARENT_CHECK_S, self._deadline() - time.monotonic()))

    def _from_client(self) -> bool:
        """False when the client is gone."""
        data = os.read(self.requests, CHUNK)
        if not data:
            return False
        for packet in self.asked.feed(data):
            if len(packet) >= 12 and struct.unpack_from("<i", packet, 8)[0] == SHUTDOWN:
                return False
            if self.dead:
                write_all(self.replies, exception_packet(self.dead))
            else:
                self.waiting = True
                self.progress = time.monotonic()
                self.outgoing += packet
        return True

    def _to_device(self) -> None:
        try:
            written = os.write(self.device.to_device, self.outgoing[:CHUNK])
        except OSError:
            return  # it is gone: reading from it says so
        del self.outgoing[:written]
        self.progress = time.monotonic()

    def _from_device(self) -> None:
        try:
            data = os.read(self.device.from_device, CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._give_up(self.device.epitaph())
            return
        self.progress = time.monotonic()
        for packet in self.answered.feed(data):
            if self.ready:
                self.waiting = False
                write_all(self.replies, packet)
            self.ready = True  # the first packet is empty and for us

    def _give_up(self, why: str) -> None:
        self.dead = why
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


def _own_descriptors(status: int, requests: int, replies: int) -> tuple[int, int, int]:
    """Ours alone, and far from those of the emulator.

    The client's descriptors have no CLOEXEC: we were given those of other sessions too, and their
    peers would not see an end while we hold them.
    """
    kept = tuple(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in (status, requests, replies))
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in kept:
            try:
                os.close(fd)
            except OSError:
                pass  # the listing's own
    return kept[0], kept[1], kept[2]


def main(arguments: list[str]) -> None:
    os.setsid()  # Ctrl-C is for the client, which then closes the session
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # an orderly end: the emulator first
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    status, requests, replies = _own_descriptors(
        int(arguments[0]), int(arguments[-2]), int(arguments[-1])
    )
    try:
        device = Device(arguments[2:-2])
    except OSError as error:
        write_all(status, f"error {os.getpid()} {error}\n".encode())
        return
    write_all(status, f"started {os.getpid()} {device.process.pid}\n".encode())
    try:
        Bridge(device, requests, replies, float(arguments[1])).run()
    except BrokenPipeError:
        pass  # the client is gone
    finally:
        device.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
