"""A firmware image with many candidates, for an emulated board."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from microddsp.micro import cycles as frames
from microddsp.micro.boards import Board
from microddsp.micro.package.objects import compile_c
from microddsp.micro.targets import Target
from microddsp.tuning.objects import BuiltCandidate

_FRAME = Path(frames.__file__).parent
_HEADER_BYTES = 12
# Exit statuses of the firmware.
FAULT = 2
DAMAGED = 4


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one candidate, to its end."""

    candidate: int
    stack_bytes: int
    arena: np.ndarray


def link_image(
    where: Path, built: Sequence[BuiltCandidate], board: Board, target: Target, sets: int
) -> Path:
    """All candidates and the frame that runs them, on `sets` sets of values.

    Raises:
        BoardError: It does not link, or does not fit into the board.
    """
    (where / "candidates.h").write_text(_table(built, sets))
    script = jinja2.Template((_FRAME / "link.ld.j2").read_text(), undefined=jinja2.StrictUndefined)
    (where / "link.ld").write_text(script.render(board=board))
    # the frame is not C99: its stack is painted with the help of GCC's own words
    frame = compile_c(
        target,
        [_FRAME / "candidates.c"],
        where / "frame.o",
        ["-c", "-std=gnu11", "-O1", f"-I{where}"],
    )
    return compile_c(
        target,
        [frame, *(b.object for b in built)],
        where / "image.elf",
        ["-nostartfiles", "--specs=nosys.specs", "-Wl,--gc-sections", "-w"]
        + [f"-T{where / 'link.ld'}", "-Wl,--no-warn-rwx-segments"],
        ["-lm"],
    )


def _table(built: Sequence[BuiltCandidate], sets: int) -> str:
    arena_bytes = max(b.arena_bytes for b in built)
    # two trials may be the same code
    declarations = sorted({f"void {b.symbol}(unsigned char *arena);" for b in built})
    return "\n".join(
        [
            f"#define CANDIDATES {len(built)}u",
            f"#define SETS {sets}u",
            f"#define ARENA_BYTES {arena_bytes}u",
            *declarations,
            "static void (*const candidates[])(unsigned char *) = {",
            *(f"    {b.symbol}," for b in built),
            "};\n",
        ]
    )


def write_values(
    where: Path, count: int, chosen: Sequence[int], contents: Sequence[np.ndarray]
) -> None:
    """What the firmware reads: which of `count` candidates to run, on which values."""
    left_out = np.ones(-(-count // 4) * 4, "uint8")
    left_out[list(chosen)] = 0
    (where / "out.bin").unlink(missing_ok=True)
    (where / "in.bin").write_bytes(b"".join(a.tobytes() for a in (left_out, *contents)))


def read_runs(where: Path, arena_bytes: int) -> list[Run]:
    """What the firmware wrote, up to where it stopped."""
    path = where / "out.bin"
    raw = np.fromfile(path, "uint8") if path.is_file() else np.zeros(0, "uint8")
    size = _HEADER_BYTES + arena_bytes
    runs = []
    for at in range(0, len(raw) - size + 1, size):
        candidate, _, stack_bytes = raw[at : at + _HEADER_BYTES].view("uint32").tolist()
        runs.append(Run(candidate, stack_bytes, raw[at + _HEADER_BYTES : at + size]))
    return runs
