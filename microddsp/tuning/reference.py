"""What a kernel must compute: its default, run on this computer."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from microddsp.micro.package.objects import compile_c
from microddsp.micro.targets import TARGETS
from microddsp.tuning.source import FILL, Arena, Piece, arena_of, dtype_of, filled, source_of

if TYPE_CHECKING:
    from microddsp.tuning.task import Candidate

# The largest error of a float32 output against its largest value.
TOLERANCE = 1e-5
_SHARED = ("-shared", "-w")
OUTSIDE = "writes outside of its arguments"


def run_here(candidate: Candidate, signals: Sequence[np.ndarray]) -> list[np.ndarray]:
    """All signals after a run on this computer, as C."""
    contents = filled(candidate, signals)
    with tempfile.TemporaryDirectory(prefix="microddsp-") as folder:
        source = Path(folder) / "candidate.c"
        source.write_text(source_of(replace(candidate, emit="c", flags=())))
        library = ctypes.CDLL(
            str(compile_c(TARGETS["host"], [source], source.with_suffix(".so"), _SHARED, ["-lm"]))
        )
    memory = np.zeros(len(contents) + 64, "uint8")
    start = -memory.ctypes.data % 64
    arena = memory[start : start + len(contents)]
    arena[:] = contents
    library.candidate(ctypes.c_void_p(arena.ctypes.data))
    return [_read(piece, arena) for piece in arena_of(candidate).signals.values()]


def _read(piece: Piece, arena: np.ndarray) -> np.ndarray:
    return arena[piece.place].copy().view(dtype_of(piece.parameter))


def difference(
    candidate: Candidate, before: np.ndarray, after: np.ndarray, expected: Sequence[np.ndarray]
) -> str:
    """What is wrong with an arena after a run, "" if nothing is. `expected` are the default's
    signals."""
    arena = arena_of(candidate)
    if not _guards_hold(arena, after):
        return OUTSIDE
    for (i, piece), wanted in zip(arena.signals.items(), expected, strict=True):
        parameter = piece.parameter
        if not parameter.written:
            if not np.array_equal(after[piece.place], before[piece.place]):
                return f"writes into its input {parameter.name}"
        elif candidate.checked is None or i in candidate.checked:
            wrong = _difference(_read(piece, after), wanted)
            if wrong:
                return f"wrong: {parameter.name} {wrong}"
    return ""


def _difference(made: np.ndarray, expected: np.ndarray) -> str:
    if not np.issubdtype(made.dtype, np.floating):
        count = int((made != expected).sum())
        return f"has {count} of {made.size} numbers wrong" if count else ""
    if not np.array_equal(np.isfinite(made), np.isfinite(expected)):
        return "is not finite where it should be"
    fits = np.isfinite(expected)
    if not fits.any():
        return ""
    largest = float(np.abs(expected[fits]).max())
    error = float(np.abs(made[fits].astype("float64") - expected[fits]).max())
    if error <= TOLERANCE * largest:
        return ""
    return f"is off by {error / largest:.1e} of its largest value" if largest else "is not zero"


def _guards_hold(arena: Arena, after: np.ndarray) -> bool:
    left = np.ones(len(after), bool)
    for piece in (*arena.signals.values(), *arena.scratch.values()):
        left[piece.place] = False
    return bool((after[left] == FILL).all())
