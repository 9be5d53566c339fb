"""Cycles of a Cortex-M4F, modelled from the instructions that ran; not calibrated on silicon.

Zero wait states, after the Technical Reference Manual (sections 3.3 and 7.2.3):

    integer and logic, multiply, multiply-accumulate        1
    divide                                                  6 (high: 12)
    load, store with one register                           2, 1; a load behind a load or store 1
    load, store of doubles, LDRD, STRD                      3
    load, store multiple, push, pop of n registers          1 + n
    branch                                                  1, taken + 1 to 2; BX, BLX + 1
    VADD, VSUB, VMUL, VCVT, VABS, VNEG, VCMP                1
    VMLA, VFMA and their kin                                3
    VDIV, VSQRT                                             14
    a VFP instruction behind the one that makes its operand + 1, but not for a sum's addend
    IT                                                      0 (high: 1)

`high` takes no pipelining of floating-point loads and slow branches, `low` the best of both.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from microddsp.micro.cycles.counting import Block

_LINE = re.compile(r"^\s+([0-9a-f]+):\s+(\S+)\s*([^@;]*)")
_CONDITION = "(eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?"
_BRANCH = re.compile(rf"(b|bl|bx|blx){_CONDITION}|cbz|cbnz")
_MULTIPLE = re.compile(r"v?(push|pop|ldm|stm)")
_ARITHMETIC = re.compile(r"v(n?mul|add|sub|cvt|abs|neg|cmp|div|sqrt|n?ml[as]|fn?m[as])")
_SUM = re.compile(r"v(n?ml[as]|fn?m[as])")
_SIMPLE_MOVE = re.compile(r"(ldr|str)(b|h|sb|sh)?")
_RANGE = re.compile(r"([rsd])(\d+)-[rsd](\d+)")
_FLOATS = re.compile(r"\b[sd]\d+\b")
_NOTHING = ("", "")


@dataclass(frozen=True, slots=True)
class Cycles:
    low: int
    high: int


class Listing:
    """The instructions of a program."""

    def __init__(self, image: Path, objdump: str) -> None:
        text = subprocess.run(
            [objdump, "-d", "--no-show-raw-insn", str(image)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        self._code = {
            int(found[1], 16): (found[2].split(".")[0], found[3].strip())
            for found in map(_LINE.match, text.splitlines())
            if found
        }
        self._addresses = sorted(self._code)
        self._place = {address: i for i, address in enumerate(self._addresses)}

    def cycles(self, blocks: Sequence[Block]) -> Cycles:
        """Modelled cycles of what ran."""
        fallen: dict[int, int] = {}
        for block in blocks:
            behind = self._place[block.start] + block.instructions
            fallen[behind] = fallen.get(behind, 0) + block.fell_through
        sums = [0, 0]
        for block in blocks:
            first = self._place[block.start]
            run = [self._code[a] for a in self._addresses[first : first + block.instructions]]
            for high in (False, True):
                sums[high] += _block_cycles(run, block, high)
            if fallen.get(first) and first:
                before = self._code[self._addresses[first - 1]]
                for high in (False, True):
                    sums[high] += fallen[first] * _joined(before, run[0], high)
        return Cycles(*sums)


def model_cycles(image: Path, blocks: Sequence[Block], objdump: str) -> Cycles:
    """Modelled cycles of what ran."""
    return Listing(image, objdump).cycles(blocks)


def _block_cycles(run: list[tuple[str, str]], block: Block, high: bool) -> int:
    cycles = 0
    for i, (name, operands) in enumerate(run):
        before = run[i - 1] if i else _NOTHING
        behind = run[i + 1] if i + 1 < len(run) else _NOTHING
        cycles += block.runs * _cost(name, operands, before, high)
        cycles += block.runs * _stall(name, operands, behind)
    name, operands = run[-1]
    if _BRANCH.fullmatch(name):
        taken = 1 + (high or name.startswith(("bx", "blx")))
        cycles += (block.runs - block.fell_through) * taken
    elif "pc" in operands and name.startswith(("pop", "ldm", "ldr", "tb")):
        cycles += block.runs * (1 + high)
    return cycles


def _joined(before: tuple[str, str], first: tuple[str, str], high: bool) -> int:
    """Cycles more (or fewer) where a block is entered from the one before it: the emulator ends
    blocks in the middle of straight code too."""
    saved = _cost(*first, before, high) - _cost(*first, _NOTHING, high)
    return saved + _stall(*before, first)


def _cost(name: str, operands: str, before: tuple[str, str], high: bool) -> int:
    """Cycles of one instruction that waits for nothing."""
    pipelined = bool(_SIMPLE_MOVE.fullmatch(before[0])) or (not high and before[0] == "vldr")
    wide = operands.startswith("d")
    if _MULTIPLE.match(name):
        return 1 + _registers(operands)
    if name in ("ldrd", "strd"):
        return 3
    if name == "vldr":
        return 2 + wide - pipelined
    if name == "vstr":
        return 2 + wide - (not high)
    if name.startswith("ldr"):
        return 2 - pipelined
    if name.startswith(("vdiv", "vsqrt")):
        return 14
    if _SUM.match(name):
        return 3
    if name == "vmov":
        return 2 if len(re.findall(r"\br\d+\b", operands)) == 2 else 1
    if name in ("sdiv", "udiv"):
        return 12 if high else 6
    if re.fullmatch(r"it[te]{0,3}", name):
        return int(high)
    return 2 if name in ("tbb", "tbh") else 1


def _stall(name: str, operands: str, behind: tuple[str, str]) -> int:
    """1 where the next instruction waits for this one's floating-point result."""
    result = _FLOATS.findall(operands)[:1]
    if not result or not _ARITHMETIC.match(name) or name.startswith("vcmp"):
        return 0
    read = _FLOATS.findall(behind[1])
    if _ARITHMETIC.match(behind[0]) and not behind[0].startswith("vcmp"):
        read = read[1:] if len(read) > 1 else read  # a sum reads its addend a cycle later
    elif not behind[0].startswith(("vcmp", "vstr", "vmov")):
        return 0
    return int(result[0] in read)


def _registers(operands: str) -> int:
    """Words that a list like {r4-r7, s0} moves."""
    found = re.search(r"\{(.*)\}", operands)
    words = 0
    for part in found[1].split(",") if found else ["r0"]:
        ends = _RANGE.match(part.strip())
        words += (2 if part.strip().startswith("d") else 1) * (
            int(ends[3]) - int(ends[2]) + 1 if ends else 1
        )
    return words
