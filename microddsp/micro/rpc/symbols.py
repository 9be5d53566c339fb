"""Which function and line of a firmware an address belongs to."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.dwarf.dwarfinfo import DWARFInfo
from elftools.elf.elffile import ELFFile

_FUNCTION = "STT_FUNC"


@dataclass(frozen=True, slots=True)
class Place:
    """`inner` is the innermost C function, which the compiler may have put into `function`."""

    function: str = ""
    inner: str = ""
    line: str = ""


class Symbols:
    """A firmware's symbols; read when they are first needed, from what the file was at first."""

    def __init__(self, image: Path) -> None:
        self._bytes = image.read_bytes()

    @cached_property
    def _elf(self) -> Any:
        return ELFFile(io.BytesIO(self._bytes))

    @cached_property
    def _functions(self) -> list[tuple[int, int, str]]:
        """(first address, bytes, name); Thumb's bit is not part of an address."""
        table = self._elf.get_section_by_name(".symtab")
        found = table.iter_symbols() if table else ()
        return [
            (s["st_value"] & ~self._thumb, s["st_size"], s.name)
            for s in found
            if s["st_info"]["type"] == _FUNCTION and s["st_size"]
        ]

    @property
    def _thumb(self) -> int:
        return 1 if self._elf["e_machine"] == "EM_ARM" else 0

    @property
    def has_lines(self) -> bool:
        """Whether it is known which line of the source an instruction belongs to."""
        return self._elf.get_section_by_name(".debug_line") is not None

    def value(self, name: str) -> int | None:
        """The address of a symbol."""
        table = self._elf.get_section_by_name(".symtab")
        found = table.get_symbol_by_name(name) if table else None
        return int(found[0]["st_value"]) if found else None

    def find(self, address: int) -> Place:
        """What is at an address; empty names where nothing is known."""
        address &= ~self._thumb
        names = [n for first, size, n in self._functions if first <= address < first + size]
        if not names:
            return Place()
        try:
            line, number, inner = self._source(address)
        except (ELFError, KeyError, ValueError, AttributeError, IndexError):
            return Place(names[0])  # debug information that is damaged, or of another kind
        return Place(names[0], inner, f"{line}:{number}" if line else "")

    def _source(self, address: int) -> tuple[str, int, str]:
        if not self._elf.has_dwarf_info():
            return "", 0, ""
        dwarf: DWARFInfo = self._elf.get_dwarf_info()
        for unit in dwarf.iter_CUs():
            program = dwarf.line_program_for_CU(unit)
            before = None
            for entry in program.get_entries() if program else ():
                state = entry.state
                if state is None:
                    continue
                if before is not None and before.address <= address < state.address:
                    file = _file_name(program, before.file)
                    return file, before.line, _enclosing(unit, before.file, before.line)
                before = None if state.end_sequence else state
        return "", 0, ""


def _file_name(program: Any, index: int) -> str:
    first = 0 if program["version"] >= 5 else 1
    return str(Path(program["file_entry"][index - first].name.decode()).name)


def _enclosing(unit: Any, file: int, line: int) -> str:
    """The function of the unit whose text the line is in, inlined or not."""
    best = (0, "")
    for die in unit.get_top_DIE().iter_children():
        if die.tag != "DW_TAG_subprogram" or "DW_AT_name" not in die.attributes:
            continue
        declared = die.attributes.get("DW_AT_decl_line")
        where = die.attributes.get("DW_AT_decl_file")
        if declared and where and where.value == file and best[0] < declared.value <= line:
            best = (declared.value, die.attributes["DW_AT_name"].value.decode())
    return best[1]
