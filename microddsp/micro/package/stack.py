"""Stack of the deepest call path: GCC's call graph, and library code read from its instructions."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from elftools.elf.elffile import ELFFile

from microddsp.errors import BoardError
from microddsp.micro.package.objects import compile_c
from microddsp.micro.targets import Target

_NODE = re.compile(r'node: \{ title: "([^"]+)" label: "([^"]*)"')
_EDGE = re.compile(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"')
_BYTES = re.compile(r"(\d+) bytes")

_LABEL = re.compile(r"^[0-9a-f]+ <([^>]+)>:$")
_INSTRUCTION = re.compile(r"^\s*[0-9a-f]+:\s+(\S+)\s*(.*)$")
_TARGET = re.compile(r"<([^>+]+)(\+0x[0-9a-f]+)?>")
_REGISTERS = re.compile(r"\{([^}]*)\}")
_BEFORE = re.compile(r"\[sp, #-(\d+)\]!")
_NAMED = {"sl": 10, "fp": 11, "ip": 12, "lr": 14}
_SUB_SP = re.compile(r"^sp, (?:sp, )?#(\d+)")


@dataclass
class Function:
    """Bytes of stack that a function takes itself, and whom it calls."""

    own: int = 0
    calls: set[str] = field(default_factory=set)


def deepest(graph: str, root: str, library: dict[str, Function]) -> tuple[int, tuple[str, ...]]:
    """Bytes of the deepest path from `root`, and the callees that neither source knows.

    Args:
        graph: What GCC's `-fcallgraph-info=su` wrote.
        root: A function's name.
        library: Functions outside the object, from `library_functions`.
    """
    known: dict[str, Function] = {}
    for title, label in _NODE.findall(graph):
        size = _BYTES.search(label)
        if size:
            known[_short(title)] = Function(int(size[1]))
    for source, target in _EDGE.findall(graph):
        if _short(source) in known:
            known[_short(source)].calls.add(_short(target))
    functions = library | known
    unknown: set[str] = set()

    def depth(name: str, path: frozenset[str]) -> int:
        function = functions.get(name)
        if function is None:
            unknown.add(name)
            return 0
        inner = [depth(callee, path | {name}) for callee in function.calls - path - {name}]
        return function.own + max(inner, default=0)

    return depth(root, frozenset()), tuple(sorted(unknown))


def _short(title: str) -> str:
    return title.rsplit(":", 1)[-1]


def library_functions(target: Target, built: Sequence[Path], root: str) -> dict[str, Function]:
    """Functions of the C library and the compiler's own that the objects pull in, and those of
    objects that GCC did not make.

    Bytes that a function pushes are counted as if it did so all at once: never too few.
    Nothing for a target whose disassembler is not there, or not for ARM.
    """
    disassembler = shutil.which(target.compiler.removesuffix("gcc") + "objdump")
    if disassembler is None or not target.compiler.startswith("arm-"):
        return {}
    options = ["-nostartfiles", "-Wl,--gc-sections", f"-Wl,-e,{root}", f"-Wl,-u,{root}"]
    try:
        image = compile_c(target, built, built[0].with_suffix(".elf"), options, ["-lm"])
    except BoardError:
        return {}  # it needs what only the user's firmware has: these stay unknown
    listing = subprocess.run(
        [disassembler, "-d", "--no-show-raw-insn", str(image)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    functions = _read_listing(listing)
    with image.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        where = {symbol.name: symbol["st_value"] & ~1 for symbol in table.iter_symbols()}
    shown = {where[name]: name for name in functions}
    return {name: functions[shown[at]] for name, at in where.items() if at in shown}


def _read_listing(listing: str) -> dict[str, Function]:
    functions: dict[str, Function] = {}
    current = Function()
    goes_on = False
    for line in listing.splitlines():
        label = _LABEL.match(line)
        if label:
            if goes_on:  # code runs on into the next label
                current.calls.add(label[1])
            current = functions[label[1]] = Function()
            goes_on = False
            continue
        found = _INSTRUCTION.match(line)
        if not found:
            continue
        name, operands = found[1], found[2]
        current.own += _pushed(name, operands)
        target = _TARGET.search(operands)
        if target and name.startswith(("b", "cb")):
            current.calls.add(target[1])
        if not name.startswith((".", "nop")):  # what fills up to an alignment is no code
            goes_on = not (
                name in ("b", "b.n", "b.w", "bx") or (name.startswith("pop") and "pc" in operands)
            )
    return functions


def _pushed(name: str, operands: str) -> int:
    """Bytes by which an instruction lowers the stack pointer."""
    if name.startswith(("push", "vpush")) or (name.startswith("stmdb") and "sp!" in operands):
        registers = _REGISTERS.search(operands)
        count = _count(registers[1]) if registers else 0
        return count * (8 if name.startswith("vpush") and "d" in operands else 4)
    lowered = _SUB_SP.match(operands) if name.startswith("sub") else _BEFORE.search(operands)
    return int(lowered[1]) if lowered else 0


def _count(registers: str) -> int:
    total = 0
    for part in registers.split(","):
        ends = [e.strip() for e in part.split("-")]
        if len(ends) == 1:
            total += 1
            continue
        low, high = (_NAMED.get(e) or int(e.lstrip("rsd")) for e in ends)
        total += high - low + 1
    return total
