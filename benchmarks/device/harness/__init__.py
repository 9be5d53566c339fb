"""Builds a job's firmware, runs it, reads what it costs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2
import numpy as np
from elftools.elf.elffile import ELFFile

from benchmarks.device.job import Array, Code, Job, Result
from microddsp.errors import BoardError
from microddsp.micro import cycles as frame_of_jobs
from microddsp.micro.boards import Board, find_board
from microddsp.micro.cycles.cortex_m4 import model_cycles
from microddsp.micro.cycles.counting import build_plugin, executed, run_counted
from microddsp.micro.package.objects import compile_c
from microddsp.micro.targets import Target, find_target

_HERE = Path(frame_of_jobs.__file__).parent
_SIZES = "#define JOB_BLOCKS {}u\n#define JOB_IN_BYTES {}u\n#define JOB_OUT_BYTES {}u\n"
_NOTHING = Code(
    "#define JOB_INIT()\n#define JOB_PROCESS(from, to) ((void)(from), (void)(to))\n", {}
)
# Ours is always built as it ships; others may fuse multiply and add as GCC likes to.
_OURS_ONLY = ("-std=c99", "-ffp-contract=off")


@dataclass(frozen=True, slots=True)
class _Sizes:
    text: int
    data: int


def measure(job: Job, library: str, code: Code, board_name: str, folder: Path) -> Result:
    """Build, run and check one library's code for a job.

    Raises:
        BoardError: It does not build or run.
    """
    board = find_board(board_name)
    target = find_target(board.target)
    where = folder / board_name / f"{job.key}-{library}".replace(" ", "-")
    image = _build(job, code, board, where)
    job.inputs.tofile(where / "in.bin")
    blocks = run_counted(board, image, build_plugin(folder))
    frame = _sizes(_build(job, _NOTHING, board, folder / board_name / "nothing" / job.key))
    whole = _sizes(image)
    stack = int(np.fromfile(where / "stack.bin", "uint32")[0])
    put_out = np.fromfile(where / "out.bin", job.out_dtype).reshape(job.blocks, -1)
    error = _error(job, code.in_order(put_out) if code.in_order else put_out)
    cycles = None
    if target.name == "cortex-m4f":
        cycles = model_cycles(image, blocks, target.compiler.removesuffix("gcc") + "objdump")
    return Result(
        job=job.key,
        library=library,
        board=board_name,
        instructions=executed(blocks) / job.units,
        cycles_low=cycles.low / job.units if cycles else None,
        cycles_high=cycles.high / job.units if cycles else None,
        text_bytes=whole.text - frame.text,
        ram_bytes=whole.data - frame.data + stack,
        stack_bytes=stack,
        error=error,
        correct=bool(error <= job.tolerance),
    )


def library_flags(target: Target) -> tuple[str, ...]:
    """Flags for other libraries: the same, but the compiler may fuse multiply and add."""
    return tuple(flag for flag in target.c_flags if flag not in _OURS_ONLY)


def _build(job: Job, code: Code, board: Board, where: Path) -> Path:
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    out = code.out_elements or job.out_elements
    sizes = _SIZES.format(job.blocks, job.inputs[0].nbytes, 4 * out)
    (where / "job.h").write_text(f"#pragma once\n#include <stdint.h>\n{sizes}{code.header}")
    script = jinja2.Template((_HERE / "link.ld.j2").read_text(), undefined=jinja2.StrictUndefined)
    (where / "link.ld").write_text(script.render(board=board))
    for name, text in code.sources.items():
        (where / name).write_text(text)
    target = find_target(board.target)
    flags = target.c_flags if code.ours else library_flags(target)
    flags = tuple(code.optimise if flag == "-O3" else flag for flag in flags)
    chosen = replace(target, c_flags=flags)
    includes = [f"-I{where}", *(f"-I{path}" for path in code.includes)]
    # the frame is not C99: its stack is painted with the help of GCC's own words
    main = compile_c(target, [_HERE / "main.c"], where / "main.o", ["-c", "-std=gnu11", *includes])
    return compile_c(
        chosen,
        [main, *(where / name for name in sorted(code.sources) if name.endswith(".c"))],
        where / "job.elf",
        [*includes, "-nostartfiles", "--specs=nosys.specs", "-Wl,--gc-sections", "-w"]
        + [f"-T{where / 'link.ld'}", "-Wl,--no-warn-rwx-segments"],
        [*map(str, code.archives), "-lm"],
    )


def _sizes(image: Path) -> _Sizes:
    """Bytes of code and tables, and of memory that the job itself takes."""
    with image.open("rb") as file:
        sections = {s.name: int(s["sh_size"]) for s in ELFFile(file).iter_sections()}
    data = sections.get(".data", 0)
    return _Sizes(sections[".text"] + data, data + sections.get(".bss", 0))


def _error(job: Job, put_out: Array) -> float:
    """The largest error, relative to the largest value; infinite where a count is wrong."""
    expected = np.asarray(job.expected).reshape(-1)
    put_out = put_out.reshape(-1)
    if len(put_out) != len(expected):
        raise BoardError(f"{len(put_out)} values instead of {len(expected)}", where=job.key)
    if job.out_dtype == "int32":
        return 0.0 if np.array_equal(put_out, expected) else float("inf")
    if not np.isfinite(put_out).all():
        return float("inf")
    return float(np.abs(put_out - expected).max() / np.abs(expected).max())
