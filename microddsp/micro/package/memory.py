"""Flash, RAM and stack of a model, read from the object that its compiler makes."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elftools.elf.elffile import ELFFile

from microddsp.micro.package.objects import compile_c
from microddsp.micro.package.stack import deepest, library_functions

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Bytes. `ram_bytes` is state plus arena; `stack_bytes` is the deepest path from `process`,
    the compiler's and the C library's own functions included.

    `buffers` lists every arena buffer as (name, bytes, offset, first step, last step), `sections`
    the object's sections, `symbols` its functions and tables, `placed` the section of each,
    `outside` functions that it calls but whose stack could not be counted.
    """

    flash_bytes: int
    state_bytes: int
    arena_bytes: int
    stack_bytes: int
    buffers: tuple[tuple[str, int, int, int, int], ...]
    sections: dict[str, int]
    outside: tuple[str, ...]
    symbols: dict[str, int]
    placed: dict[str, str]

    @property
    def ram_bytes(self) -> int:
        return self.state_bytes + self.arena_bytes

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"ram_bytes": self.ram_bytes}


def measure(model: CompiledModel) -> MemoryReport:
    """Compile the model's C for its target and read the sizes.

    Raises:
        BoardError: The target's compiler is missing or refuses the file.
    """
    with tempfile.TemporaryDirectory(prefix="microddsp-") as folder:
        where = Path(folder)
        for name, text in model.sources.items():
            (where / name).write_text(text)
        built = compile_c(
            model.target,
            [where / f"{model.name}.c"],
            where / "model.o",
            ["-c", "-fcallgraph-info=su", "-dumpbase", "model", "-dumpdir", f"{where}/"],
        )
        kernels = [where / name for name in model.objects]
        for path in kernels:
            path.write_bytes(model.objects[path.name])
        sections: Counter[str] = Counter()
        symbols: dict[str, tuple[int, str]] = {}
        for path in (built, *kernels):
            sections += _sections(path)
            symbols |= _symbols(path, model.name)
        graph = next(where.glob("*.ci")).read_text()
        root = f"{model.name}_process"
        stack, outside = deepest(graph, root, {})
        if outside:
            stack, outside = deepest(
                graph, root, library_functions(model.target, [built, *kernels], root)
            )
    signature = model.signature
    return MemoryReport(
        flash_bytes=sum(size for name, size in sections.items() if not name.startswith(".bss")),
        state_bytes=signature.state_bytes,
        arena_bytes=signature.workspace_bytes,
        stack_bytes=stack,
        buffers=model.buffers,
        sections=dict(sorted(sections.items())),
        outside=outside,
        symbols={name: size for name, (size, _) in sorted(symbols.items())},
        placed={name: section for name, (_, section) in sorted(symbols.items())},
    )


def _sections(path: Path) -> Counter[str]:
    """Sizes of what is loaded. TVM puts conversions of half floats, which no kernel calls, into a
    section of their own: the linker drops it."""
    with path.open("rb") as file:
        return Counter(
            {
                section.name: int(section["sh_size"])
                for section in ELFFile(file).iter_sections()
                if section["sh_flags"] & 0x2 and section["sh_size"]  # SHF_ALLOC
                if not section.name.endswith(".text.tvm.fp16.conv")
            }
        )


def _symbols(path: Path, name: str) -> dict[str, tuple[int, str]]:
    """Bytes and section of each function and table of the model; small functions may be inside
    others."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        table = elf.get_section_by_name(".symtab")
        return {
            symbol.name: (int(symbol["st_size"]), elf.get_section(symbol["st_shndx"]).name)
            for symbol in table.iter_symbols()
            if symbol["st_info"]["type"] in ("STT_FUNC", "STT_OBJECT")
            if symbol["st_size"] and symbol.name.startswith(f"{name}_")
            if isinstance(symbol["st_shndx"], int)
        }
