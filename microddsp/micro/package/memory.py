"""Flash, RAM and stack of a model, read from the object that its compiler makes."""

from __future__ import annotations

import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elftools.elf.elffile import ELFFile

from microddsp.micro.package.objects import compile_c

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

_NODE = re.compile(r'node: \{ title: "([^"]+)" label: "([^"]*)"')
_EDGE = re.compile(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"')
_BYTES = re.compile(r"(\d+) bytes")


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Bytes. `ram_bytes` is state plus arena; `stack_bytes` is the deepest path below `process`.

    `buffers` lists every arena buffer as (name, bytes, offset, first call, last call), `sections`
    the object's sections, `outside` functions of the C library whose stack is not counted.
    """

    flash_bytes: int
    state_bytes: int
    arena_bytes: int
    stack_bytes: int
    buffers: tuple[tuple[str, int, int, int, int], ...]
    sections: dict[str, int]
    outside: tuple[str, ...]

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
        with built.open("rb") as file:
            sections = {
                section.name: int(section["sh_size"])
                for section in ELFFile(file).iter_sections()
                if section["sh_flags"] & 0x2 and section["sh_size"]  # SHF_ALLOC
            }
        graph = next(where.glob("*.ci")).read_text()
    stack, outside = _deepest(graph, f"{model.name}_process")
    signature = model.signature
    return MemoryReport(
        flash_bytes=sum(size for name, size in sections.items() if not name.startswith(".bss")),
        state_bytes=signature.state_bytes,
        arena_bytes=signature.workspace_bytes,
        stack_bytes=stack,
        buffers=model.buffers,
        sections=dict(sorted(sections.items())),
        outside=outside,
    )


def _deepest(graph: str, root: str) -> tuple[int, tuple[str, ...]]:
    """Bytes of the deepest call path from `root`, and the callees whose size GCC does not know."""
    own: dict[str, int] = {}
    for title, label in _NODE.findall(graph):
        size = _BYTES.search(label)
        if size:
            own[title] = int(size[1])
    calls: dict[str, list[str]] = {}
    for source, target in _EDGE.findall(graph):
        calls.setdefault(source, []).append(target)
    outside: set[str] = set()

    def depth(name: str) -> int:
        if name not in own:
            outside.add(name.rsplit(":", 1)[-1])
            return 0
        return own[name] + max((depth(callee) for callee in calls.get(name, ())), default=0)

    start = next((n for n in own if n.rsplit(":", 1)[-1] == root), root)
    return depth(start), tuple(sorted(outside))
