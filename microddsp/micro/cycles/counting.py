"""Executed instructions, counted exactly by a plugin of QEMU."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from elftools.elf.elffile import ELFFile

from microddsp.errors import BoardError
from microddsp.micro.boards import Board
from microddsp.micro.rpc.start import qemu_command

_PLUGIN = Path(__file__).parent / "plugin.c"
OVER_LIMIT = 9  # the plugin's STATUS_LIMIT


@dataclass(frozen=True, slots=True)
class Block:
    """Instructions from `start` that ran together; `fell_through` of the `runs` went on behind."""

    start: int
    instructions: int
    runs: int
    fell_through: int


@dataclass(frozen=True, slots=True)
class Counted:
    """What an emulator said: blocks executed between the two markers, each time that the second one
    was reached, its exit status (None: it was ended after its time) and its last words."""

    sections: list[list[Block]]
    status: int | None
    words: str


def run_sections(
    board: Board, image: Path, plugin: Path, *, limit: int = 0, timeout_s: float = 300.0
) -> Counted:
    """Run a firmware to its end, however it ends. More than `limit` instructions between two
    markers (0: any number) end it too, with status `OVER_LIMIT`.

    Raises:
        BoardError: The emulator knows no plugins.
    """
    with image.open("rb") as file:
        symbols = ELFFile(file).get_section_by_name(".symtab")
        begin, end = (
            symbols.get_symbol_by_name(name)[0]["st_value"] & ~1
            for name in ("job_begin", "job_end")
        )
    counts = image.with_name("counts.txt")
    counts.unlink(missing_ok=True)
    plugin_path = str(plugin).replace(",", ",,")  # how QEMU wants a comma in a value
    options = f"{plugin_path},begin={begin:#x},end={end:#x},out={counts.name}"
    options += f",limit={limit}" if limit else ""
    status, words = _run([*qemu_command(board, image), "-plugin", options], image.parent, timeout_s)
    if counts.is_file():
        return Counted(_sections(counts.read_text()), status, words)
    if status is None:  # its time was over before it began
        return Counted([], status, words)
    raise BoardError(f"the emulator counts nothing: {words}", where=board.name)


def _run(command: list[str], folder: Path, timeout_s: float) -> tuple[int | None, str]:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stderr.strip()[-500:]


def run_counted(board: Board, image: Path, plugin: Path) -> list[Block]:
    """Run a firmware; the blocks executed between its two markers.

    Raises:
        BoardError: The emulator knows no plugins, or the firmware stopped with an error.
    """
    done = run_sections(board, image, plugin)
    if done.status != 0:
        raise BoardError(
            f"{image} ended with status {done.status}: {done.words}",
            where=board.name,
        )
    return merged(done.sections)


def merged(sections: Sequence[Sequence[Block]]) -> list[Block]:
    """All sections as one."""
    sums: dict[tuple[int, int], list[int]] = {}
    for section in sections:
        for block in section:
            runs = sums.setdefault((block.start, block.instructions), [0, 0])
            runs[0] += block.runs
            runs[1] += block.fell_through
    return [Block(*place, *runs) for place, runs in sums.items()]


def _sections(text: str) -> list[list[Block]]:
    """Of complete lines: the last one may be cut off where the emulator was."""
    sections: list[list[Block]] = []
    for line in text.splitlines():
        if line == "section":
            sections.append([])
        elif len(line.split()) == 4:
            sections[-1].append(_block(line))
    return sections


def _block(line: str) -> Block:
    start, instructions, runs, fell_through = line.split()
    return Block(int(start, 16), int(instructions), int(runs), int(fell_through))


def executed(blocks: list[Block]) -> int:
    return sum(block.instructions * block.runs for block in blocks)


@cache
def build_plugin(folder: Path, binary: str = "qemu-system-arm") -> Path:
    """The plugin, for the version of its interface that the installed QEMU has.

    Raises:
        BoardError: No C compiler, or it refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "libcounting.so"
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)", said)
    version = 1 if found and int(found[1]) < 9 else 2
    command = ["cc", "-O2", "-shared", "-fPIC", f"-DPLUGIN_VERSION={version}", str(_PLUGIN)]
    done = subprocess.run(
        [*command, "-o", str(output)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BoardError(f"the counting plugin cannot be built:\n{done.stderr}")
    return output.resolve()
