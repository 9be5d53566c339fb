"""Files of a project from templates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from microddsp.errors import BoardError
from microddsp.signature import TensorSpec

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

PROTOCOL = "0.8.0"
# The RPC server, which every firmware has.
SERVER_FILES = (
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
# The link over a UART.
FRAME_FILES = ("frames.c", "frames.h", "uart.h")
RUNTIME = Path(__file__).parents[1] / "runtime"
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
    r"(app|board|faults|frames|main|port|rpc|startup|stdio|uart)(_.*)?", re.IGNORECASE
)


def check_model_names(models: Sequence[CompiledModel]) -> None:
    """Whether models of these names can be in a project.

    Raises:
        BoardError: A name is one of the firmware's own, or there twice.
    """
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


def runtime_files(names: Sequence[str]) -> dict[str, str]:
    """C files of the runtime as they are, by name."""
    return {name: (RUNTIME / name).read_text() for name in names}


def server_values(
    models: Sequence[CompiledModel], pieces: Mapping[str, tuple[str, ...]]
) -> dict[str, object]:
    """What templates of a firmware with the RPC server may say about its models."""
    return {
        "models": [_model(m, pieces.get(m.name, ()), len(models) > 1) for m in models],
        "title": ", ".join(model.name for model in models),
        "protocol": PROTOCOL,
    }


def render(folder: str, files: Mapping[str, str], values: Mapping[str, object]) -> dict[str, str]:
    """Files from the templates in `folder` or the shared ones: path -> template's name."""
    environment = _environment(folder)
    return {
        path: environment.get_template(f"{template}.j2").render(values)
        for path, template in files.items()
    }


@cache
def _environment(folder: str) -> jinja2.Environment:
    """Kept for the templates in it, which jinja reads again where a file has changed."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([_TEMPLATES / folder, _TEMPLATES]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
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
        "tunables": signature.tunables,
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
