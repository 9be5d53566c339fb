"""Executed instructions, counted exactly by a plugin of QEMU."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from elftools.elf.elffile import ELFFile

from microddsp.errors import BoardError
from microddsp.micro.boards import Board
from microddsp.micro.rpc.start import qemu_command

_PLUGIN = Path(__file__).parent / "plugin.c"


@dataclass(frozen=True, slots=True)
class Block:
    """Instructions from `start` that ran together; `fell_through` of the `runs` went on behind."""

    start: int
    instructions: int
    runs: int
    fell_through: int


def run_counted(board: Board, image: Path, plugin: Path) -> list[Block]:
    """Run a firmware; the blocks executed between its two markers.

    Raises:
        BoardError: The emulator knows no plugins, or the firmware stopped with an error.
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
    done = subprocess.run(
        [*qemu_command(board, image), "-plugin", options],
        cwd=image.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0 or not counts.is_file():
        raise BoardError(
            f"{image} ended with status {done.returncode}: {done.stderr.strip()[-500:]}",
            where=board.name,
        )
    return [_block(line) for line in counts.read_text().splitlines()]


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
