"""A model's C with a mark after each kernel, for firmware that tells where the time goes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

MARK = "rpc_profile_mark"


def instrument(model: CompiledModel) -> tuple[dict[str, str], tuple[str, ...]]:
    """The sources with marks around the calls in `process`, and what stands between two marks.

    C that has no such calls gets none: it is one piece then.
    """
    name = model.name
    file = f"{name}.c"
    before, head, body = model.sources[file].rpartition(f"{name}_process_unchecked(")
    step = re.compile(rf"^    (?:({name}_k\d+_\w+)\(|\(void\)memcpy\((.+?), ).*\);$", re.MULTILINE)
    pieces: list[str] = []

    def marked(found: re.Match[str]) -> str:
        start = f"    {MARK}(0u);\n" if not pieces else ""
        piece = found[1].removeprefix(f"{name}_") if found[1] else _copy(found[2])
        seen = sum(p.partition(" #")[0] == piece for p in pieces)
        pieces.append(f"{piece} #{seen + 1}" if seen else piece)
        return f"{start}{found[0]}\n    {MARK}({len(pieces)}u);"

    body = step.sub(marked, body)
    if not pieces:
        return dict(model.sources), ()
    include = f'#include "{name}.h"\n'
    before = before.replace(include, f"{include}\nvoid {MARK}(uint32_t mark);\n", 1)
    return {**model.sources, file: before + head + body}, tuple(pieces)


def _copy(target: str) -> str:
    return "copy in the workspace" if target.startswith("(") else f"copy to {target}"
