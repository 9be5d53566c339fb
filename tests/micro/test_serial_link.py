"""The serial link against a line that harms bytes: nothing is lost, nothing doubled."""

from __future__ import annotations

import os
import stat
import termios
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.link.line import line_board
from microddsp.errors import BoardError, DeviceFaultError, DeviceResetError, DeviceTimeoutError
from microddsp.micro.boards import Board, find_board
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.platforms import (
    Project,
    build_project,
    create_project,
    flash_project,
    read_project,
)
from microddsp.micro.platforms.flash import fill
from microddsp.micro.rpc.boards_attached import Port, attached, choose_port
from microddsp.micro.rpc.bridge import start_link
from microddsp.micro.rpc.frames import unpack
from microddsp.micro.rpc.link import Link
from microddsp.micro.rpc.start import start_command
from microddsp.micro.rpc.symbols import Symbols
from microddsp.micro.session import BoardSession, open_project
from tests.micro.noisy_line import NoisyLine

Maker = Callable[..., CompiledModel]
Start = Callable[..., NoisyLine]
LINE_BOARD = line_board(4_000_000)

HELPERS = """#include "rpc_server.h"
"""
BODY = """    if (x[0] == 1e6f) {
        y[0] = *(volatile float *)8;
    }
    if (x[0] == 2e6f) {
        for (volatile int32_t forever = 1; forever != 0;) {
        }
    }
    for (int32_t i = 0; i < 8; ++i) {
        self->sum += x[i];
        y[i] = self->sum;
    }"""


UDF = BODY.replace("y[0] = *(volatile float *)8;", '__asm__ volatile("udf #0");')
BOARDS = Path(__file__).resolve().parents[2] / "microddsp/micro/boards"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Project:
    probe: Maker = request.getfixturevalue("probe")
    folder = tmp_path_factory.mktemp("line")
    (folder / "behind-a-line.toml").write_text(LINE_BOARD)
    board = find_board(str(folder / "behind-a-line.toml"))
    create_project(folder / "fw", probe(BODY, target="host", helpers=HELPERS), board)
    build_project(folder / "fw")
    return read_project(folder / "fw")


@pytest.fixture
def line(project: Project) -> Iterator[Start]:
    lines: list[NoisyLine] = []

    def start(rate: float, seed: int = 1, record: Path | None = None) -> NoisyLine:
        lines.append(NoisyLine(project.image, rate=rate, seed=seed, record=record))
        return lines[-1]

    yield start
    for each in lines:
        each.close()


def stream(project: Project, line: NoisyLine, samples: int) -> None:
    """A running sum tells each block that was lost, doubled, changed or out of order."""
    x = np.random.default_rng(0).integers(-100, 100, (1, samples)).astype(np.float32)
    with open_project(project.directory, port=line.port, timeout_s=20.0) as board:
        np.testing.assert_array_equal(board.run(x), np.cumsum(x, axis=1))


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.01])
def test_nothing_is_lost_or_doubled(project: Project, line: Start, rate: float) -> None:
    noisy = line(rate)
    stream(project, noisy, 8 * (20 if rate < 0.01 else 6))
    assert (noisy.close() > 0) == (rate > 0.0)


def test_a_block_is_one_exchange_of_few_bytes(
    project: Project, line: Start, tmp_path: Path
) -> None:
    """Only what must go over the line is there. What is asked twice, where the computer was busy
    for half a second of a slow line, only adds to it: the least of several sessions is it."""
    noisy = line(0.0, record=tmp_path / "said")
    assert project.board and project.board.serial
    serial = project.board.serial.model_copy(update={"baud": 9600})
    slow = replace(project, board=project.board.model_copy(update={"serial": serial}))
    for count in (1, 11) * 3:
        with BoardSession(slow, port=noisy.port, timeout_s=20.0) as board:
            board.run(np.ones((1, 8 * count), np.float32))
    noisy.close()
    # A device that did not compute for long answers with its reply; the first time is not known.
    for who, frames, most_bytes in (("host", 1, 22), ("device", 2, 80)):
        coded = [part for part in (tmp_path / f"said.{who}").read_bytes().split(b"\0") if part]
        of_session: dict[int, list[bytes]] = {}
        before = b""
        for part in coded:
            frame = unpack(part, before)
            assert frame
            before = frame[5] or before
            of_session.setdefault(frame[1], []).append(part)
        sessions = list(of_session.values())
        first, second = (
            min(sessions[i::2], key=lambda parts: sum(map(len, parts))) for i in (0, 1)
        )
        assert 10 <= len(second) - len(first) <= 10 * frames
        assert sum(map(len, second)) - sum(map(len, first)) < 10 * most_bytes


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.001, 0.003, 0.01, 0.02, 0.05])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_or_doubled_for_long(
    project: Project, line: Start, rate: float, seed: int
) -> None:
    stream(project, line(rate, seed), 8 * (20 if rate > 0.02 else 200))


def test_large_tensors_pass(project: Project, line: Start) -> None:
    import tvm

    there = np.random.default_rng(0).integers(0, 255, 100_000, dtype=np.uint8)
    with open_project(project.directory, port=line(0.0005).port, timeout_s=20.0) as board:
        tensor = tvm.runtime.tensor(there, board.session.cpu(0))
        np.testing.assert_array_equal(tensor.numpy(), there)


def test_a_second_session_starts_anew(project: Project, line: Start) -> None:
    noisy = line(0.001)
    for _ in range(3):
        stream(project, noisy, 8)


def test_a_fault_is_told_over_the_line_and_the_session_goes_on(
    project: Project, line: Start
) -> None:
    x = np.ones((1, 8), np.float32)
    with open_project(project.directory, port=line(0.001).port) as board:
        with pytest.raises(DeviceFaultError, match=r"in probe_process \(probe.c:"):
            board.run(1e6 * x)
        assert board.run(x)[0, -1] == 8.0


def test_a_board_that_hangs_is_told_in_time(project: Project, line: Start) -> None:
    x = np.ones((1, 8), np.float32)
    noisy = line(0.0)
    with open_project(project.directory, port=noisy.port, timeout_s=1.0) as board:
        with pytest.raises(DeviceTimeoutError, match="1 s"):
            board.run(2e6 * x)
    noisy.reset_device()
    stream(project, noisy, 8)  # after a reset it is there again


def test_a_board_that_was_reset_is_told(project: Project, line: Start) -> None:
    x = np.ones((1, 8), np.float32)
    noisy = line(0.001)
    with open_project(project.directory, port=noisy.port) as board:
        board.run(x)
        noisy.reset_device()
        with pytest.raises(DeviceResetError, match="the device was reset"):
            board.run(x)
    stream(project, noisy, 8)


def test_a_board_that_a_break_resets_gets_one_when_a_session_begins(
    project: Project, line: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pseudo-terminal lets a break go by: that it is sent is seen where it is sent."""
    file = tmp_path / "resets.toml"
    file.write_text(LINE_BOARD + "break_resets = true\n")
    port = line(0.0).port
    command = start_command(find_board(str(file)), project.image, port)
    assert command == ["serial", port, "4000000", "yes"]
    link = Link(command, 20.0, project.image)
    assert link.call(link.session.get_function, "process") is not None
    link.close()
    sent: list[int] = []
    send = termios.tcsendbreak
    monkeypatch.setattr(termios, "tcsendbreak", lambda fd, t: (sent.append(t), send(fd, t)))
    for resets, breaks in (("no", []), ("yes", [0])):
        start_link("serial", [port, "4000000", resets]).stop()
        assert sent == breaks


def test_a_port_that_does_not_answer_or_is_not_there_is_told(
    project: Project, tmp_path: Path
) -> None:
    with pytest.raises(BoardError, match="does not start.*no such|does not start.*No such"):
        open_project(project.directory, port=str(tmp_path / "none"))
    with pytest.raises(BoardError, match="/dev/null is no serial port"):
        open_project(project.directory, port=os.devnull)
    silent, theirs = os.openpty()
    with pytest.raises(DeviceTimeoutError, match="no answer"):
        open_project(project.directory, port=os.ttyname(theirs), timeout_s=0.2)
    os.close(silent)
    os.close(theirs)


@pytest.fixture(scope="module")
def uart_project(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Project:
    """An emulated UART on a line: the driver and the frames as a real board has them."""
    probe: Maker = request.getfixturevalue("probe")
    folder = tmp_path_factory.mktemp("uart")
    ours = (BOARDS / "mps2-an386.toml").read_text().partition("[qemu]")[0]
    (folder / "an386-uart.toml").write_text(f'{ours}[serial]\ndriver = "uart_cmsdk.c"\n')
    board = find_board(str(folder / "an386-uart.toml"))
    assert board.unit == "cycles"
    create_project(folder / "fw", probe(UDF), board)
    build_project(folder / "fw")
    return read_project(folder / "fw")


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("rate", "blocks"),
    [
        (0.0, 10),
        (0.002, 4),
        *(pytest.param(*line, marks=pytest.mark.slow) for line in ((0.001, 40), (0.01, 20))),
        pytest.param(0.05, 6, marks=pytest.mark.slow),
    ],
)
def test_firmware_on_a_cortex_m_speaks_over_its_uart(
    uart_project: Project, rate: float, blocks: int
) -> None:
    emulator = ["qemu-system-arm", "-M", "mps2-an386", "-display", "none", "-monitor", "none"]
    command = [*emulator, "-serial", "stdio", "-kernel", uart_project.image]
    noisy = NoisyLine(*command, rate=rate, seed=3)
    x = np.random.default_rng(0).integers(-9, 9, (1, 8 * blocks)).astype(np.float32)
    try:
        for _ in range(2 if rate == 0.0 else 1):
            with open_project(uart_project.directory, port=noisy.port, timeout_s=20.0) as session:
                np.testing.assert_array_equal(session.run(x), np.cumsum(x, axis=1))
                with pytest.raises(DeviceFaultError, match="undefined instruction in probe_proc"):
                    session.run(np.full((1, 8), 1e6, np.float32))
                assert session.time(x[:, :8]).unit == "cycles"
    finally:
        harmed = noisy.close()
    assert (harmed > 0) == (rate > 0.0)


# ---- which board, and its flash ----


def nucleo(**changes: object) -> Board:
    board = find_board("mps2-an386")
    serial = {"driver": "uart_cmsdk.c", "usb": ["0483:374b"], **changes}
    return Board.model_validate(
        {**board.model_dump(), "name": "nucleo", "qemu": None, "serial": serial}
    )


PORTS = [
    Port("/dev/ttyS0"),
    Port("/dev/ttyACM0", "0483:374b", "0670FF"),
    Port("/dev/ttyACM1", "0483:374b", "0671AA"),
    Port("/dev/ttyUSB0", "0403:6001", "A1"),
]


def test_a_board_is_found_by_its_usb_numbers() -> None:
    board = nucleo()
    assert choose_port(board, PORTS[:2]).path == "/dev/ttyACM0"
    assert choose_port(board, PORTS, "0671AA").path == "/dev/ttyACM1"
    with pytest.raises(BoardError, match="0670FF on /dev/ttyACM0, 0671AA on /dev/ttyACM1"):
        choose_port(board, PORTS)
    with pytest.raises(BoardError, match="(?s)serial number '9'.*attached: 0670FF, 0671AA"):
        choose_port(board, PORTS, "9")
    with pytest.raises(BoardError, match="no nucleo is attached.*0483:374b"):
        choose_port(board, PORTS[3:])
    assert attached(PORTS[2:], [board]) == [("nucleo", PORTS[2])]


@pytest.mark.parametrize(
    ("kbytes", "asked", "expected"),
    [(16, None, 224), (31, None, 224), (32, None, 1024), (256, None, 4096), (16, 2048, 2048)],
)
def test_the_less_memory_a_board_has_the_shorter_its_frames_are(
    kbytes: int, asked: int | None, expected: int, probe: Maker, tmp_path: Path
) -> None:
    board = nucleo(frame_bytes=asked)
    assert board.ram
    board = board.model_copy(update={"ram": board.ram.model_copy(update={"kbytes": kbytes})})
    create_project(tmp_path / "fw", probe(), board)
    assert f"FRAME_PAYLOAD = {expected}\n" in (tmp_path / "fw/Makefile").read_text()


def test_commands_are_filled_in(tmp_path: Path) -> None:
    image = tmp_path / "plops.elf"
    pyocd = ["pyocd", "flash", "-t", "stm32l476rg", "-u", "{serial_number}", "{image}"]
    full = fill(pyocd, image, port=None, serial_number="0670FF")
    assert full == ["pyocd", "flash", "-t", "stm32l476rg", "-u", "0670FF", str(image)]
    short = fill(pyocd, image, port=None, serial_number=None)
    assert short == ["pyocd", "flash", "-t", "stm32l476rg", str(image)]
    openocd = ["openocd", "-c", "program {image} verify reset exit"]
    assert fill(openocd, image, port=None, serial_number=None)[2] == (
        f"program {image} verify reset exit"
    )
    with pytest.raises(BoardError, match="can be filled in"):
        fill(["x", "{elf}"], image, port=None, serial_number=None)


@pytest.mark.qemu
def test_a_board_is_flashed_with_the_tool_of_its_file(
    probe: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tool is a program that keeps what it was given: this is what a programmer would get."""
    tool = tmp_path / "st-flash"
    tool.write_text(
        f'#!/bin/sh\necho "$1 $2 $4" > "{tmp_path}/words"\ncp "$3" "{tmp_path}/written"\n'
    )
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    board = nucleo(flash=["st-flash", "--reset", "write", "{bin}", "0x8000000"])
    create_project(tmp_path / "fw", probe(), board)
    project = read_project(tmp_path / "fw")
    with pytest.raises(BoardError, match="build the project first"):
        flash_project(project.directory)
    build_project(tmp_path / "fw")
    flash_project(project.directory)
    assert (tmp_path / "words").read_text() == "--reset write 0x8000000\n"
    image = (tmp_path / "written").read_bytes()
    entry = Symbols(project.image).value("reset_handler")
    assert int.from_bytes(image[4:8], "little") == entry  # the second vector
    tool.write_text("#!/bin/sh\necho no target connected >&2\nexit 3\n")
    with pytest.raises(BoardError, match="(?s)st-flash.*failed.*no target connected"):
        flash_project(project.directory)
