"""Boards are data, and data is checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from microddsp.errors import BoardError
from microddsp.micro.boards import DEFAULT_BOARD, Board, boards, find_board, list_boards
from microddsp.micro.boards.catalogue import read_board

SOURCES = Path(__file__).resolve().parents[2] / "microddsp/micro/boards"


def test_every_file_is_a_board() -> None:
    assert list_boards() == sorted(path.stem for path in SOURCES.glob("*.toml"))
    assert DEFAULT_BOARD in list_boards()


def test_a_mistyped_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(BoardError, match="did you mean 'mps3-an547'"):
        find_board("mps3-an574")


EMULATED = [board for board in boards() if board.qemu]


@pytest.mark.parametrize("board", EMULATED, ids=lambda board: board.name)
def test_ticks_tell_instructions_exactly(board: Board) -> None:
    assert board.qemu
    assert board.unit == "instructions"
    for count in [*range(2000), 10**6 + 1, 10**9 + 7]:
        ticks = count * (board.clock_hz << board.qemu.icount_shift) // 10**9
        assert board.count(ticks) == count


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('target = "cortex-m4f"', 'target = "cortex-m4"', "(?s)target.*mean 'cortex-m4f'"),
        ("clock_hz = 25_000_000", "clock_hz = -1", "clock_hz"),
        ("stack_bytes = 32768", "stack_bytes = 1001", "stack_bytes"),
        ("stack_bytes = 32768", "", "stack_bytes: Field required"),
        ("[ram]", "[ran]", "ran: Extra"),
        ('machine = "mps2-an386"', 'machine = "x -kernel /etc/passwd"', "qemu.machine"),
        ("[qemu]", "[qemu", "cannot be read"),
        ("[qemu]\nmachine", "[serial]\ndriver", "serial.driver"),
        ('[qemu]\nmachine = "mps2-an386"', "", "either qemu or serial"),
        ('target = "cortex-m4f"', 'target = "host"', "has no qemu"),
        ("kbytes = 4096", 'kbytes = "4096"', "flash.kbytes"),
        ("origin = 0x20000000", "origin = 0x003FFC00", "toml: flash and ram overlap"),
        ("stack_bytes = 32768", "stack_bytes = 4194304", "4096 kB of RAM are too small"),
        ('target = "cortex-m4f"', 'target = "cortex-m4f"\nname = "x"', "name: it is that of the"),
        (
            '[qemu]\nmachine = "mps2-an386"',
            '[serial]\ndriver = "uart_cmsdk.c"\nflash = ["st-flash", "{imag}"]',
            "serial.flash: nothing is filled in for {imag}; did you mean 'image'",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(
    before: str, after: str, words: str, tmp_path: Path
) -> None:
    text = (SOURCES / "mps2-an386.toml").read_text()
    assert before in text
    file = tmp_path / "mine.toml"
    file.write_text(text.replace(before, after, 1))
    with pytest.raises(BoardError, match=words) as caught:
        read_board(file)
    assert "mine.toml" in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b'description = "\xfc"')
    with pytest.raises(BoardError, match="mine.toml: cannot be read"):
        read_board(tmp_path / "mine.toml")
