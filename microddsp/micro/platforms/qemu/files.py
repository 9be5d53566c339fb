"""The files of a bare-metal project: runtime as it is, the rest from templates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from microddsp.errors import BoardError
from microddsp.micro.boards import Board
from microddsp.signature import TensorSpec

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

# File descriptors that the emulator inherits: above those that QEMU opens itself.
LINK_IN = 50
LINK_OUT = 51
PROTOCOL = "0.8.0"
RUNTIME_FILES = (
    "faults.c",
    "port.h",
    "port_internal.h",
    "port_semihosting.c",
    "rpc_heap.c",
    "rpc_heap.h",
    "rpc_server.c",
    "rpc_server.h",
    "rpc_wire.c",
    "rpc_wire.h",
    "startup.c",
)

_RUNTIME = Path(__file__).parents[2] / "runtime"
_TEMPLATES = Path(__file__).parent / "templates"
_DTYPE = re.compile(r"(int|uint|float|bool)(\d*)")
_CODES = {
    "int": "RPC_DTYPE_INT",
    "uint": "RPC_DTYPE_UINT",
    "float": "RPC_DTYPE_FLOAT",
    "bool": "RPC_DTYPE_BOOL",
}
# Names of the firmware's own files and functions begin so.
_RESERVED = re.compile(r"(app|board|faults|port|rpc|startup)(_.*)?", re.IGNORECASE)


def project_files(
    model: CompiledModel, board: Board, *, stack_bytes: int, image: str
) -> dict[str, str]:
    """File name -> text of the whole project, without its manifest.

    Raises:
        BoardError: The model's name is one of the firmware's own.
    """
    if _RESERVED.fullmatch(model.name):
        raise BoardError(
            f"a model cannot be called {model.name!r} here: the firmware has files of that name",
            hint="compile it with another name",
        )
    files = {name: (_RUNTIME / name).read_text() for name in RUNTIME_FILES}
    files.update(model.sources)
    objects = sorted(name[:-2] + ".o" for name in {**files, "app.c": ""} if name.endswith(".c"))
    signature = model.signature
    values = {
        "model": model,
        "name": model.name,
        "NAME": model.name.upper(),
        "board": board,
        "target": model.target,
        "inputs": signature.inputs,
        "outputs": signature.outputs,
        "tensors": [_rule(t) for t in (*signature.inputs, *signature.outputs)],
        "workspace_bytes": signature.workspace_bytes,
        "io_in_arena": signature.io_in_arena,
        "stack_bytes": stack_bytes,
        "image": image,
        "objects": objects,
        "link_in": LINK_IN,
        "link_out": LINK_OUT,
        "protocol": PROTOCOL,
        "options": {"board": board.name, "stack": stack_bytes},
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    for name in ("app.c", "board.h", "board.ld", "Makefile", "README.md"):
        files[name] = environment.get_template(f"{name}.j2").render(values)
    return files


def _rule(spec: TensorSpec) -> dict[str, object]:
    match = _DTYPE.fullmatch(spec.dtype)
    assert match, spec.dtype
    return {
        "name": spec.name,
        "code": _CODES[match[1]],
        "bits": int(match[2] or 8),
        "elements": spec.elements,
    }
