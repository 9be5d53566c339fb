"""The files of a firmware project: runtime as it is, the rest from templates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from microddsp.errors import BoardError
from microddsp.micro.boards import Board
from microddsp.micro.platforms.profiling import instrument
from microddsp.micro.targets import find_target
from microddsp.signature import TensorSpec

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

# File descriptors that the emulator inherits: above those that QEMU opens itself.
LINK_IN = 50
LINK_OUT = 51
PROTOCOL = "0.8.0"
_SERVER = (
    "port.h",
    "rpc_heap.c",
    "rpc_heap.h",
    "rpc_models.c",
    "rpc_models.h",
    "rpc_server.c",
    "rpc_server.h",
    "rpc_wire.c",
    "rpc_wire.h",
)
_CORTEX_M = ("faults.c", "port_internal.h", "port_systick.c", "startup.c", "stdio.c")
_FRAMES = ("frames.c", "frames.h", "uart.h")
_PLATFORM = {
    "qemu": (*_CORTEX_M, "port_semihosting.c"),
    "serial": (*_CORTEX_M, "port_serial.c"),
    "host": ("port_posix.c",),
}

_RUNTIME = Path(__file__).parents[1] / "runtime"
_TEMPLATES = Path(__file__).parent / "templates"
_DTYPE = re.compile(r"(int|uint|float|bool)(\d*)")
_CODES = {
    "int": "RPC_DTYPE_INT",
    "uint": "RPC_DTYPE_UINT",
    "float": "RPC_DTYPE_FLOAT",
    "bool": "RPC_DTYPE_BOOL",
}
# Names of the firmware's own files and functions begin so.
_RESERVED = re.compile(
    r"(app|board|faults|frames|port|rpc|startup|stdio|uart)(_.*)?", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class ProjectFiles:
    """File name -> text, without the manifest; model name -> the pieces that a profile tells."""

    texts: dict[str, str]
    pieces: dict[str, tuple[str, ...]]


def project_files(
    models: Sequence[CompiledModel],
    board: Board,
    *,
    stack_bytes: int,
    image: str,
    profile: bool = False,
) -> ProjectFiles:
    """The whole project.

    Raises:
        BoardError: A model's name is one of the firmware's own, or there twice.
    """
    _check_names(models)
    names = [*_SERVER, *_PLATFORM[board.platform]]
    if board.serial:
        names += _FRAMES
    elif board.platform == "host":
        names.append("port_pipe.c")
    files = {name: (_RUNTIME / name).read_text() for name in names}
    if board.serial:
        files |= _driver(board)
    pieces: dict[str, tuple[str, ...]] = {}
    for model in models:
        sources, found = instrument(model) if profile else (model.sources, ())
        files |= sources
        if found:
            pieces[model.name] = found
    objects = sorted(name[:-2] + ".o" for name in {**files, "app.c": ""} if name.endswith(".c"))
    values = {
        "models": [_model(m, pieces.get(m.name, ()), len(models) > 1) for m in models],
        "title": ", ".join(model.name for model in models),
        "board": board,
        "target": find_target(board.target),
        "stack_bytes": stack_bytes,
        "image": image,
        "objects": objects,
        "kernels": sorted(name for model in models for name in model.objects),
        "link_in": LINK_IN,
        "link_out": LINK_OUT,
        "protocol": PROTOCOL,
        "options": {
            "board": board.name,
            "stack": stack_bytes,
            "profile": "yes" if profile else "no",
        },
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    scripts = () if board.platform == "host" else ("board.ld",)
    for name in ("app.c", "board.h", "Makefile", "README.md", *scripts):
        files[name] = environment.get_template(f"{name}.j2").render(values)
    return ProjectFiles(files, pieces)


def _check_names(models: Sequence[CompiledModel]) -> None:
    names = [model.name for model in models]
    for name in names:
        if _RESERVED.fullmatch(name):
            raise BoardError(
                f"a model cannot be called {name!r} here: the firmware has files of that name",
                hint="compile it with another name",
            )
        if names.count(name) > 1:
            raise BoardError(
                f"two models are called {name!r}", hint="compile one with another name"
            )


def _driver(board: Board) -> dict[str, str]:
    assert board.serial
    name = board.serial.driver
    for folder in (board.folder, _RUNTIME):
        if folder is not None and (folder / name).is_file():
            return {name: (folder / name).read_text()}
    raise BoardError(
        f"there is no serial driver {name!r}",
        where=board.name,
        hint="it lies beside the board's file and implements uart.h",
    )


def _model(model: CompiledModel, pieces: Sequence[str], several: bool) -> dict[str, object]:
    signature = model.signature
    return {
        "name": model.name,
        "NAME": model.name.upper(),
        "prefix": f"{model.name}." if several else "",
        "inputs": signature.inputs,
        "outputs": signature.outputs,
        "tensors": [_rule(t) for t in (*signature.inputs, *signature.outputs)],
        "workspace_bytes": signature.workspace_bytes,
        "io_in_arena": signature.io_in_arena,
        "marks": len(pieces) + 1 if pieces else 0,
    }


def _rule(spec: TensorSpec) -> dict[str, object]:
    match = _DTYPE.fullmatch(spec.dtype)
    assert match, spec.dtype
    return {
        "name": spec.name,
        "code": _CODES[match[1]],
        "bits": int(match[2] or 8),
        "elements": spec.elements,
    }
