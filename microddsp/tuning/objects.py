"""Candidates as object files, several compilers at a time."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from microddsp.errors import BoardError, MicroddspError
from microddsp.micro.package.objects import compile_c
from microddsp.micro.targets import Target
from microddsp.micro.tools import find_tool
from microddsp.tuning.source import (
    arena_of,
    digest_of,
    is_apart,
    kernel_symbols,
    kernels_of,
    source_of,
)

if TYPE_CHECKING:
    from microddsp.tuning.task import Candidate

OBJECT = "candidate.o"
_FACTS = "candidate.json"
_UNWINDING = ".ARM."


@dataclass(frozen=True, slots=True)
class BuiltCandidate:
    """A candidate's object file with the function `symbol` of an arena; `nbytes` of code and
    tables."""

    folder: Path
    symbol: str
    arena_bytes: int
    nbytes: int

    @property
    def object(self) -> Path:
        return self.folder / OBJECT

    def save(self) -> None:
        facts = {"symbol": self.symbol, "arena_bytes": self.arena_bytes, "nbytes": self.nbytes}
        (self.folder / _FACTS).write_text(json.dumps(facts))

    @staticmethod
    def exists(folder: Path) -> bool:
        return (folder / _FACTS).is_file()

    @classmethod
    def load(cls, folder: Path) -> BuiltCandidate:
        return cls(folder, **json.loads((folder / _FACTS).read_text()))


def build_all(
    candidates: Sequence[tuple[Candidate, Path]], target: Target, workers: int = 2
) -> list[BuiltCandidate | str]:
    """Each candidate built in its folder, or why it cannot be."""
    prepared = [_prepare(candidate, folder, target) for candidate, folder in candidates]

    def finish(job: tuple[tuple[Candidate, Path], str]) -> BuiltCandidate | str:
        (candidate, folder), reason = job
        if reason:
            return reason
        try:
            return _compile(candidate, folder, target)
        except BoardError as error:
            return in_brief(error.message)

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(finish, zip(candidates, prepared, strict=True)))


def in_brief(words: str) -> str:
    """What a compiler or linker says is wrong, without where."""
    found = re.search(r"(?:error: |undefined reference|region .* overflowed)[^\n]*", words)
    return found[0] if found else words.strip().splitlines()[-1]


def _prepare(candidate: Candidate, folder: Path, target: Target) -> str:
    """What TVM does, which is done by one thread; the reason if it cannot be."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / "candidate.c").write_text(source_of(candidate))
        if candidate.emit == "obj":
            from microddsp.micro.aot.llvm import build_object

            (folder / "kernels.o").write_bytes(build_object(candidate.kernels, target))
    except MicroddspError as error:
        return error.message
    return ""


def _compile(candidate: Candidate, folder: Path, target: Target) -> BuiltCandidate:
    symbol = f"candidate_{digest_of(candidate)}"
    apart = is_apart(candidate)
    output = folder / ("caller.o" if apart else OBJECT)
    compile_c(target, [folder / "candidate.c"], output, ["-c", "-w", f"-Dcandidate={symbol}"])
    if apart and candidate.emit == "c":
        (folder / "kernels.c").write_text(kernels_of(candidate))
        flags = ["-c", "-w", *candidate.flags]
        compile_c(target, [folder / "kernels.c"], folder / "kernels.o", flags)
    if apart:
        _join(candidate, folder, target, symbol)
    built = BuiltCandidate(
        folder, symbol, arena_of(candidate).nbytes, bytes_loaded(folder / OBJECT)
    )
    built.save()
    return built


def _join(candidate: Candidate, folder: Path, target: Target, symbol: str) -> None:
    """One object whose only name for others is `symbol`."""
    prefix = target.compiler.removesuffix("gcc").removesuffix("cc")
    names = [f"--redefine-sym={old}={new}" for old, new in kernel_symbols(candidate).items()]
    _run(f"{prefix}objcopy", *names, folder / "kernels.o", folder / "named.o")
    _run(f"{prefix}ld", "-r", folder / "caller.o", folder / "named.o", "-o", folder / "joined.o")
    _run(f"{prefix}objcopy", f"--keep-global-symbol={symbol}", folder / "joined.o", folder / OBJECT)


def _run(program: str, *arguments: str | Path) -> None:
    command = [find_tool(program, "build candidates"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BoardError(f"{program} failed:\n{done.stderr.strip()}")


def bytes_loaded(path: Path) -> int:
    """Code and tables of an object file."""
    with path.open("rb") as file:
        return sum(
            int(section["sh_size"])
            for section in ELFFile(file).iter_sections()
            if section["sh_flags"] & SH_FLAGS.SHF_ALLOC and not section.name.startswith(_UNWINDING)
        )
