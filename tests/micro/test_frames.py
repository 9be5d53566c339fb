"""Frames of a serial line: the host's end alone, and with the device's end as a process."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from microddsp.micro.platforms.texts import RUNTIME
from microddsp.micro.rpc.frames import (
    ASK,
    CHANGES,
    DATA,
    HELLO,
    LARGEST,
    LEAST,
    WELCOME,
    Frames,
    decode,
    encode,
    pack,
    unpack,
)
from tests.micro.noisy_line import NoisyLine

Frame = tuple[int, int, int, int, int, bytes]

# Gives back what it was sent: a length, then so many bytes.
ECHO = """#include "port.h"

static void serve(void)
{
    static uint8_t bytes[65536];
    uint16_t length;
    while (port_read(&length, sizeof(length)) == 0) {
        if (port_read(bytes, length) != 0) {
            return;
        }
        port_write(bytes, length);
        port_flush();
    }
}

int main(void)
{
    port_run(serve);
    return 0;
}
"""


class Host:
    """The host's end on a port, and every frame that went over it whole."""

    def __init__(self, port: str, session: int, baud: int = 4_000_000) -> None:
        self.fd = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(self.fd)
        self.frames = Frames(session, baud, time.monotonic())
        self.frames.expect(True, time.monotonic())
        self.said = b""
        self.heard = b""
        self.repeated = 0  # questions, as where the computer was busy with something else

    def echo(self, data: bytes, *, within_s: float = 60.0) -> bytes:
        end = time.monotonic() + within_s
        self.frames.send(len(data).to_bytes(2, "little") + data, time.monotonic())
        got = b""
        while len(got) < len(data):
            self.frames.expect(True, time.monotonic())
            self._write()
            due = self.frames.deadline()
            assert due is not None
            patience = max(0.0, due - time.monotonic())
            if select.select([self.fd], [], [], patience)[0]:
                news = os.read(self.fd, 1 << 16)
                self.heard += news
                got += self.frames.feed(news, time.monotonic())
            before = len(self.frames.outgoing)
            self.frames.tick(time.monotonic())
            self.repeated += len(self.frames.outgoing) > before
            assert time.monotonic() < end
        self.frames.expect(False, time.monotonic())
        return got

    def _write(self) -> None:
        outgoing = self.frames.outgoing
        self.said += outgoing
        while outgoing:
            select.select([], [self.fd], [])
            del outgoing[: os.write(self.fd, outgoing)]

    def longest(self) -> tuple[int, int]:
        """Of the payloads there and back."""
        said, heard = frames_of(self.said), frames_of(self.heard)
        return max(len(f[5]) for f in said), max(len(f[5]) for f in heard)

    def close(self) -> None:
        os.close(self.fd)


def frames_of(data: bytes, before: bytes = b"") -> list[Frame]:
    """All that are whole, of a side that took the payload `before` last."""
    frames: list[Frame] = []
    for coded in data.split(b"\0"):
        frame = unpack(coded, before) if coded else None
        if frame is not None:
            frames.append(frame)
            before = frame[5] or before
    return frames


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The echo, for a device with frames of so many bytes."""
    folder = tmp_path_factory.mktemp("echo")
    for name in ("frames.c", "frames.h", "uart.h", "uart_posix.c", "port.h"):
        shutil.copy(RUNTIME / name, folder)
    (folder / "echo.c").write_text(ECHO)

    def build(frame_bytes: int) -> Path:
        program = folder / f"echo{frame_bytes}"
        if not program.exists():
            sources = ["frames.c", "uart_posix.c", "echo.c"]
            checks = ["-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsanitize=address,undefined"]
            command = ["gcc", "-std=gnu11", *checks, f"-DFRAME_PAYLOAD={frame_bytes}u", *sources]
            subprocess.run([*command, "-o", program.name], cwd=folder, check=True)
        return program

    return build


@pytest.fixture
def line(image: Callable[[int], Path]) -> Iterator[Callable[..., NoisyLine]]:
    lines: list[NoisyLine] = []

    def start(frame_bytes: int, rate: float = 0.0, seed: int = 1) -> NoisyLine:
        lines.append(NoisyLine(image(frame_bytes), rate=rate, seed=seed))
        return lines[-1]

    yield start
    for each in lines:
        each.close()


Start = Callable[..., NoisyLine]


def some_bytes(count: int, high: int = 256, low: int = 0) -> bytes:
    return np.random.default_rng(count).integers(low, high, count, dtype=np.uint8).tobytes()


# ---- both ends ----


@pytest.mark.parametrize("device", [8, 224, 1024, 4096, 16384])
def test_both_ends_send_the_longest_frame_that_both_take(line: Start, device: int) -> None:
    host = Host(line(device).port, session=7)
    for data in (bytes(5000), some_bytes(5000, low=1), some_bytes(1)):
        assert host.echo(data) == data
    longest = (min(device, LARGEST), min(device, LARGEST))
    for _ in range(10):  # frames are short for a while where an answer was late
        assert host.echo(some_bytes(20_000)) == some_bytes(20_000)
        if host.longest() == longest:
            break
    assert host.longest() == longest
    host.close()


def test_every_length_of_a_code_passes(line: Start) -> None:
    host = Host(line(1024).port, session=7)
    lengths = *range(1, 36), *range(178, 188), *range(236, 274), 364, 508, 509, 546, 1017, 1024
    for length in lengths:
        for data in (b"\1" * length, bytes(length), b"\1" * (length - 1) + b"\0"):
            assert host.echo(data) == data
    host.close()


def test_a_slow_line_has_frames_of_a_quarter_of_a_second(line: Start) -> None:
    host = Host(line(1024).port, session=7, baud=9600)
    data = some_bytes(5000)
    assert host.echo(data) == data
    assert host.longest() == (240, 240)
    # A device that has more to say than fits into a frame says nothing twice, unless asked twice.
    again = sum(len(frame[5]) for frame in frames_of(host.heard)) - len(data)
    assert 0 <= again <= 240 * host.repeated
    host.close()


@pytest.mark.parametrize(
    ("device", "rate"), [(8, 0.01), (224, 0.001), (224, 0.01), (1024, 0.001), (1024, 0.01)]
)
def test_frames_of_any_length_survive_noise(line: Start, device: int, rate: float) -> None:
    noisy = line(device, rate)
    host = Host(noisy.port, session=7)
    for count in (10_000, 1000, 1):
        data = some_bytes(count // (10 if rate > 0.001 else 1) + 1)
        assert host.echo(data) == data
    assert host.longest()[0] <= device
    host.close()
    assert noisy.close() > 0


@pytest.mark.slow
@pytest.mark.parametrize("device", [8, 224, 1024, 4096])
@pytest.mark.parametrize("rate", [0.0003, 0.003, 0.03])
@pytest.mark.parametrize("seed", range(2))
def test_frames_of_any_length_survive_noise_for_long(
    line: Start, device: int, rate: float, seed: int
) -> None:
    host = Host(line(device, rate, seed).port, session=7)
    for _ in range(3):
        data = some_bytes(10_000 if rate < 0.01 else 500)
        assert host.echo(data, within_s=120.0) == data
    host.close()


def test_a_session_that_begins_in_the_middle_of_a_frame_is_alone(line: Start) -> None:
    port = line(1024).port
    for session in (1, 2, 3):
        host = Host(port, session)
        data = some_bytes(3000 + session)
        assert host.echo(data) == data
        host.frames.send(b"\xff\xff" + data, time.monotonic())  # a request without its end
        half = host.frames.outgoing[: 500 * session]
        os.write(host.fd, half)
        host.close()


class ByHand:
    """A session of number 7 whose frames are written one by one."""

    def __init__(self, port: str) -> None:
        self.fd = os.open(port, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.fd)
        self._hear(pack(HELLO, 7, 0, 0, 1024), lambda frames: any(f[0] == WELCOME for f in frames))

    def _hear(self, frame: bytes, enough: Callable[[list[Frame]], bool]) -> list[Frame]:
        os.write(self.fd, frame)
        heard = b""
        while not enough(frames_of(heard)):
            assert select.select([self.fd], [], [], 60.0)[0], frames_of(heard)
            heard += os.read(self.fd, 4096)
        return frames_of(heard)

    def exchange(self, frame: bytes, answers: int) -> list[bytes]:
        """The payloads of so many answers. An empty frame is answered behind them: a device that
        answers more or less often is known by that."""
        frame += pack(DATA, 7, 0, 0, LEAST)
        heard = self._hear(frame, lambda frames: len(frames) > answers)
        return [each[5] for each in heard[:answers]]


def test_a_question_is_answered_by_the_reply_and_a_piece_of_one_at_once(line: Start) -> None:
    device = ByHand(line(1024).port)
    assert device.exchange(pack(ASK, 7, 0, 0, 1024, b"\3\0abc"), 1) == [b"abc"]
    assert device.exchange(pack(DATA, 7, 5, 3, 1024, b"\3\0abc"), 2) == [b"", b"abc"]
    assert device.exchange(pack(ASK, 7, 10, 6, 1024, b"\3\0ab"), 1) == [b""]
    assert device.exchange(pack(ASK, 7, 14, 6, 1024, b"c"), 1) == [b"abc"]
    os.close(device.fd)


def test_changes_against_another_payload_are_a_damaged_frame(line: Start) -> None:
    device = ByHand(line(1024).port)
    ask, first = ASK | CHANGES, b"\3\0abc"
    assert device.exchange(pack(ask, 7, 0, 0, 1024, first), 1) == [b"abc"]  # nothing before
    assert device.exchange(pack(ask, 7, 5, 3, 1024, b"\2\0cb", first), 1) == [b"cb"]
    # of a damaged frame the device knows nothing, so that it says the last thing again
    assert device.exchange(pack(ask, 7, 9, 5, 1024, b"\3\0xyz", b"\2\0cd"), 1) == [b"cb"]
    assert device.exchange(pack(ASK, 7, 9, 5, 1024, b"\3\0xyz"), 1) == [b"xyz"]
    os.close(device.fd)


def test_questions_that_are_alike_are_short(line: Start) -> None:
    host = Host(line(1024).port, session=7)
    data = some_bytes(150)
    sizes = []
    alike = [150] * 11  # what a busy computer repeats only adds: the least counts
    for length in (*alike, 149, 3, 900, 151):  # as long as the one before, shorter, longer
        changed = bytearray(some_bytes(length))
        changed[:150] = data[:length]
        changed[-1] ^= length & 0xFF
        before = len(host.said)
        assert host.echo(bytes(changed)) == changed
        sizes.append(len(host.said) - before)
    assert sizes[0] > 150 > 45 > min(sizes[1 : len(alike)])
    host.close()


# ---- the host's end ----


def welcomed(limit: int, baud: int = 115200) -> Frames:
    frames = Frames(5, baud, now=0.0)
    frames.feed(pack(WELCOME, 5, 0, 0, limit), 0.01)
    frames.outgoing.clear()
    return frames


def last(frames: Frames, before: bytes = b"question") -> Frame:
    found = frames_of(bytes(frames.outgoing), before)
    frames.outgoing.clear()
    return found[-1]


def test_a_device_that_computes_is_asked_for_short_answers_and_then_sends_long_ones() -> None:
    frames = welcomed(1024)
    frames.expect(True, 1.0)
    frames.send(b"question", 1.0)
    assert last(frames)[4] == 1024
    frames.feed(pack(DATA, 5, 0, 8, 1024), 1.1)
    for _ in range(5):
        due = frames.deadline()
        assert due is not None
        frames.tick(due)
        assert last(frames)[3:] == (0, LEAST, b"")
    frames.feed(pack(DATA, 5, 0, 8, 1024, bytes(1024)), 9.0)
    frames.expect(True, 9.0)
    assert last(frames)[3:] == (1024, 1024, b"")


def asked(frames: Frames, now: float) -> Frame:
    frames.expect(True, now)
    frames.send(b"question", now)
    return last(frames)


def test_the_host_waits_for_the_reply_alone_where_the_device_is_quick() -> None:
    frames = welcomed(1024)
    byte_s, ack = 10 / 115200, 8
    kind, *_, question = asked(frames, 1.0)
    assert (kind, question) == (DATA, b"question")
    taken, reply = pack(DATA, 5, 0, ack, 1024), pack(DATA, 5, 0, ack, 1024, b"reply")
    now = 1.0 + byte_s * len(pack(DATA, 5, 0, 0, 1024, b"question") + taken + reply)
    frames.feed(taken, now + 0.001)
    assert frames.feed(reply, now + 0.004) == b"reply"
    # a device of 4 ms: from now on its reply is the answer
    kind, *_, question = asked(frames, 2.0)
    assert (kind, question) == (ASK | CHANGES, b"question")
    due = frames.deadline()
    assert due is not None
    # no reply: the device computes, or the question was lost, which a short one finds out
    frames.tick(due)
    kind, _, _, _, most, question = last(frames)
    assert (kind, most, question) == (DATA, LEAST, b"")
    frames.feed(pack(DATA, 5, 5, ack, 1024), due + 0.1)
    kind, _, _, _, most, question = last(frames)
    assert (kind, most, question) == (DATA, 1024, b"question")
    frames.feed(pack(DATA, 5, 5, ack + 8, 1024, b"slow"), due + 1.0)
    assert asked(frames, 9.0)[0] == DATA | CHANGES


def test_a_damaged_reply_is_asked_for_again_without_waiting_for_it_alone() -> None:
    frames = welcomed(1024)
    asked(frames, 1.0)
    assert frames.feed(pack(DATA, 5, 0, 8, 1024, b"reply"), 1.005) == b"reply"
    assert asked(frames, 2.0)[0] == ASK | CHANGES
    reply = bytearray(pack(DATA, 5, 5, 16, 1024, b"reply"))
    reply[-4] ^= 1
    assert frames.feed(bytes(reply), 2.01) == b""
    due = frames.deadline()
    assert due is not None
    frames.tick(due)
    again = last(frames)
    assert (again[0], again[5]) == (DATA, b"question")
    assert frames.feed(pack(DATA, 5, 5, 16, 1024, b"reply"), 2.1) == b"reply"


def test_a_whole_answer_is_acknowledged_by_the_next_question() -> None:
    frames = welcomed(1024)
    frames.expect(True, 1.0)
    frames.send(b"question", 1.0)
    last(frames)
    assert frames.feed(pack(DATA, 5, 0, 8, 1024, b"ans"), 1.1) == b"ans"
    frames.expect(True, 1.1)
    assert last(frames)[3:] == (3, 1024, b"")  # more is to come: the device must know
    assert frames.feed(pack(DATA, 5, 3, 8, 1024, b"wer"), 1.2) == b"wer"
    frames.expect(False, 1.2)
    assert not frames.outgoing
    assert frames.deadline() is None
    frames.send(b"another", 2.0)
    assert last(frames)[3:] == (6, 1024, b"another")


def test_frames_become_short_where_nothing_arrives_and_long_again() -> None:
    frames = welcomed(1024)
    frames.send(bytes(9000), 1.0)
    lengths = []
    for _ in range(8):
        due = frames.deadline()
        assert due is not None
        frames.tick(due)
        lengths.append(len(last(frames)[5]))
    assert lengths == [512, 256, 128, 64, 32, 16, 8, 8]
    taken = 0
    for _ in range(29):
        taken += lengths[-1]
        frames.feed(pack(DATA, 5, 0, taken, 1024), 9.0)
        lengths.append(len(last(frames, bytes(1024))[5]))
    assert lengths[8:12] == [8, 8, 8, 16]
    assert lengths[-1] == 1024


def test_what_was_acknowledged_long_ago_is_not_taken_for_what_is_sent_now() -> None:
    frames = welcomed(1024)
    frames.send(bytes(1024) + b"\1" * 70_000, 1.0)
    frames.feed(pack(DATA, 5, 0, 1024, 1024), 1.1)
    last(frames)
    frames.feed(pack(DATA, 5, 0, 0, 1024), 1.2)  # 64512 bytes ahead, or 1024 behind
    due = frames.deadline()
    assert due is not None
    frames.tick(due)
    assert last(frames)[2] == 1024


def test_a_device_that_takes_nothing_is_no_device() -> None:
    frames = welcomed(LEAST - 1)
    assert not frames.open


def test_frames_come_back_as_they_went() -> None:
    random = np.random.default_rng(0)
    for length in [0, 1, 2, 100, *range(240, 260), 1024, 4096]:
        for high in (1, 3, 256):
            payload = random.integers(0, high, length, dtype=np.uint8).tobytes()
            coded = pack(0x33, 0xABCD, 0xFFFE, 3, 1024, payload)
            assert 0 not in coded[1:-1]
            assert unpack(coded[1:-1]) == (0x33, 0xABCD, 0xFFFE, 3, 1024, payload)
    for literals in (0, 1, 5, 6, 7, 8, 180, 181, 182, 183, 364, 365):
        for zeros in (0, 1, 2, 8, 9, 10, 11, 15, 16, 17, 25, 26, 255, 256, 257, 300):
            data = (b"\1" * literals + bytes(zeros)) * 2
            coded = encode(data)[1:-1]
            assert 0 not in coded
            assert decode(coded) == data
            assert len(coded) <= len(data) + len(data) // 182 + 1


def test_a_request_has_few_bytes_on_the_line() -> None:
    """The head of a call and a tensor: 60 bytes, of which most are zeros."""
    words = [0x78, 3, 0x0F000000, 2, 7, 0x38000140, 1, 2]
    request = b"".join(word.to_bytes(8, "little") for word in words)
    assert len(encode(request)) < len(request) // 2 - 4


def test_a_frame_with_any_byte_changed_is_refused() -> None:
    coded = pack(0x33, 7, 1, 2, 1024, bytes(range(40)))[1:-1]
    for at in range(len(coded)):
        for value in (1, 0x80, 0xFF):
            changed = bytearray(coded)
            changed[at] ^= value
            if 0 not in changed:
                assert unpack(bytes(changed)) is None
    for at in range(len(coded)):
        assert unpack(coded[:at]) is None


def test_the_host_repeats_until_it_has_an_answer_and_takes_each_byte_once() -> None:
    frames = Frames(5, 115200, now=0.0)
    hello = bytes(frames.outgoing)
    frames.outgoing.clear()
    frames.tick(1.0)
    assert bytes(frames.outgoing) == hello
    frames.feed(pack(0x32, 5, 0, 0, 1024), 1.1)
    frames.outgoing.clear()
    frames.send(b"question", 1.2)
    asked = bytes(frames.outgoing)
    frames.outgoing.clear()
    frames.tick(3.0)
    assert unpack(frames.outgoing[1:-1])[5] == b"question"  # type: ignore[index]
    answer = pack(0x33, 5, 0, 8, 1024, b"answer")
    assert frames.feed(answer, 3.1) == b"answer"
    assert frames.feed(answer, 3.2) == b""
    # sent again with more, cut otherwise: only what is new
    assert frames.feed(pack(0x33, 5, 4, 8, 1024, b"er, and more"), 3.3) == b", and more"
    assert unpack(asked[1:-1])[5] == b"question"  # type: ignore[index]
    assert frames.feed(pack(0x33, 6, 16, 8, 1024, b"of another session"), 3.4) == b""
    assert not frames.lost
    frames.feed(pack(0x34, 5, 0, 0, 1024), 3.5)
    assert frames.lost
