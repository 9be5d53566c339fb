"""A candidate as C: one function on an arena, in which all of its arguments lie."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from microddsp.errors import CompileError
from microddsp.micro.aot.helpers import helpers, own_names
from microddsp.micro.aot.kernel import Kernel, Parameter
from microddsp.micro.aot.rewrites import c_float
from microddsp.signature import C_TYPES

if TYPE_CHECKING:
    from microddsp.tuning.task import Candidate

# Between arguments, and around them all.
GUARD_BYTES = 32
_OUTER_BYTES = 256
# What guards and scratch memory hold before: NaN, -1.
FILL = 0xFF
_ALIGN = 16
_HEADERS = "#include <math.h>\n#include <stdbool.h>\n#include <stdint.h>\n#include <string.h>\n"


@dataclass(frozen=True, slots=True)
class Piece:
    """Memory of one argument in the arena."""

    offset: int
    parameter: Parameter

    @property
    def nbytes(self) -> int:
        return dtype_of(self.parameter).itemsize * self.parameter.elements

    @property
    def place(self) -> slice:
        return slice(self.offset, self.offset + self.nbytes)


@dataclass(frozen=True, slots=True)
class Arena:
    """Where a kernel's arguments lie, by parameter (scratch behind them), with guards before and
    behind each: first the signals, which are all parameters but the tables, then scratch memory.
    """

    signals: Mapping[int, Piece]
    scratch: Mapping[int, Piece]
    nbytes: int


def dtype_of(parameter: Parameter) -> np.dtype[np.generic]:
    return np.dtype("uint8" if parameter.dtype == "bool" else parameter.dtype)


def arena_of(candidate: Candidate) -> Arena:
    entry = candidate.kernels[-1]
    signals: dict[int, Piece] = {}
    scratch: dict[int, Piece] = {}
    at = _OUTER_BYTES
    for i, parameter in enumerate([*entry.parameters, *entry.scratch]):
        if i in candidate.constants:
            continue
        piece = Piece(at, parameter)
        (signals if i < len(entry.parameters) else scratch)[i] = piece
        at += -(-piece.nbytes // _ALIGN) * _ALIGN + GUARD_BYTES
    return Arena(signals, scratch, at + _OUTER_BYTES)


def filled(candidate: Candidate, signals: Sequence[np.ndarray], nbytes: int = 0) -> np.ndarray:
    """The arena, as bytes, before a run, `nbytes` at least; one array for each signal.

    Raises:
        CompileError: The candidate has other arguments.
    """
    arena, grown = arena_of(candidate), dict(candidate.kernels[-1].grown)
    if len(signals) != len(arena.signals):
        raise CompileError(f"it takes {len(arena.signals)} arguments, not {len(signals)}")
    given = dict(zip(arena.signals, signals, strict=True))
    contents = np.full(max(arena.nbytes, nbytes), FILL, "uint8")
    for i, piece in arena.signals.items():
        values = np.ascontiguousarray(given[grown.get(i, i)], dtype_of(piece.parameter))
        if values.nbytes != piece.nbytes:
            raise CompileError(f"its argument {piece.parameter.name} has another size")
        contents[piece.place] = values.reshape(-1).view("uint8")
    return contents


def is_apart(candidate: Candidate) -> bool:
    """Whether its kernels are object code: nothing of the caller's is seen there."""
    return candidate.emit == "obj" or bool(candidate.flags)


def source_of(candidate: Candidate) -> str:
    """C of `void candidate(unsigned char *arena)`; the same for kernels that differ in their names
    alone. Kernels that are object code are functions of another file unless CANDIDATE_IN_C."""
    apart = is_apart(candidate)
    parts = [_HEADERS, *map(_table, candidate.constants.items())]
    if apart:
        declarations = [f"{d};" for _, d in _all_renamed(candidate)]
        parts += ["#if !defined(CANDIDATE_IN_C)", *declarations, "#else"]
    parts += _kernels(candidate)
    if apart:
        parts.append("#endif")
    return "\n".join([*parts, _entry(candidate)])


def kernels_of(candidate: Candidate) -> str:
    """C of the kernels alone, for others to call."""
    texts = [
        text.replace("static void candidate_k", "void candidate_k") for text in _kernels(candidate)
    ]
    return "\n".join([_HEADERS, *texts])


def _kernels(candidate: Candidate) -> list[str]:
    texts = [text for text, _ in _all_renamed(candidate)]
    return [*helpers(texts, "candidate"), *(own_names(text, "candidate") for text in texts)]


def _all_renamed(candidate: Candidate) -> list[tuple[str, str]]:
    return [_renamed(kernel, candidate.kernels) for kernel in candidate.kernels]


def digest_of(candidate: Candidate) -> str:
    """The same for candidates that are the same code."""
    text = "\n".join([candidate.emit, *candidate.flags, source_of(candidate)])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def kernel_symbols(candidate: Candidate) -> dict[str, str]:
    """What the kernels are called here, by their own names."""
    return {kernel.name: f"candidate_k{i}" for i, kernel in enumerate(candidate.kernels)}


def _renamed(kernel: Kernel, kernels: Sequence[Kernel]) -> tuple[str, str]:
    plain = replace(kernel, restrict="restrict")
    texts = [plain.text, plain.declaration]
    for i, other in enumerate(kernels):
        texts = [re.sub(rf"\b{other.name}\b", f"candidate_k{i}", text) for text in texts]
    return texts[0], texts[1]


def _table(item: tuple[int, np.ndarray]) -> str:
    index, values = item
    flat = np.asarray(values).ravel()
    floats = flat.dtype == np.float32
    texts = [c_float(float(v)) if floats else str(int(v)) for v in flat]
    ctype = C_TYPES[str(flat.dtype)]
    return f"static const {ctype} table{index}[{len(texts)}] = {{{', '.join(texts)}}};"


def _entry(candidate: Candidate) -> str:
    entry, arena = candidate.kernels[-1], arena_of(candidate)
    pieces = {**arena.signals, **arena.scratch}
    arguments = [
        f"({C_TYPES[p.dtype]} *)(void *)(arena + {pieces[i].offset}u)"
        if i in pieces
        else f"table{i}"
        for i, p in enumerate([*entry.parameters, *entry.scratch])
    ]
    call = f"candidate_k{len(candidate.kernels) - 1}({', '.join(arguments)});"
    return (
        "void candidate(unsigned char *arena);\n"
        f"void candidate(unsigned char *arena)\n{{\n    {call}\n}}\n"
    )
