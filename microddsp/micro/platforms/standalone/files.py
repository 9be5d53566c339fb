"""The model for somebody's own firmware: its two files, a queue of samples, and the build files
of those systems that people have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from microddsp import __version__
from microddsp.errors import BoardError
from microddsp.micro.boards import Board
from microddsp.micro.platforms.module import module_files
from microddsp.micro.platforms.texts import check_model_names, render
from microddsp.micro.targets import find_target
from microddsp.signature import C_TYPES, InputSpec, Signature

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

LAYOUTS = ("cmake", "make", "zephyr", "arduino", "cmsis")


def project_files(
    model: CompiledModel, layouts: tuple[str, ...], board: Board | None
) -> dict[str, str]:
    """Relative path -> text of the whole folder, without its manifest. The CMSIS example is for
    `board`.

    Raises:
        BoardError: The model's name is one of the example's own, or its inputs are no streams of
            one rate.
    """
    check_model_names([model])
    if model.signature.io_in_arena:
        raise BoardError(
            f"inputs and outputs of {model.name} lie in its workspace, and its queue brings them",
            hint="compile without --io-in-arena",
        )
    name = model.name
    values: dict[str, object] = {
        "name": name,
        "NAME": name.upper(),
        "workspace_bytes": model.signature.workspace_bytes,
        "setters": bool(model.signature.tunables),
        **_stream(model.signature),
        "version": __version__,
        "layouts": layouts,
        "board": board,
        "ring_frames": 1 << (2 * model.signature.block - 1).bit_length(),
        "board_compiler": find_target(board.target).compiler if board else "",
        "board_flags": find_target(board.target).c_flags if board else (),
    }
    made = {
        f"src/{name}_stream.h": "stream.h",
        f"src/{name}_stream.c": "stream.c",
        "example/main.c": "main.c",
        "README.md": "README.md",
    }
    for layout in layouts:
        made |= _made(layout, name)
    files = module_files(model, more_sources=(f"{name}_stream.c",))
    if "zephyr" not in layouts:
        files = {path: text for path, text in files.items() if not path.startswith("zephyr/")}
    return {**files, **render("standalone", made, values)}


def _made(layout: str, name: str) -> dict[str, str]:
    files = {
        "cmake": {"CMakeLists.txt": "CMakeLists.txt"},
        "make": {f"{name}.mk": "model.mk", "Makefile": "Makefile"},
        "zephyr": {},
        "arduino": {
            "library.properties": "library.properties",
            f"examples/{name}_serial/{name}_serial.ino": "sketch.ino",
        },
        "cmsis": {
            "cmsis/Makefile": "cmsis.mk",
            "cmsis/main.c": "cmsis_main.c",
            "cmsis/startup.c": "cmsis_startup.c",
            "cmsis/memory.ld": "cmsis.ld",
        },
    }
    return files[layout]


def _stream(signature: Signature) -> dict[str, object]:
    """How samples go in: one frame holds a sample of each channel of each input."""
    fields = []
    for spec in signature.inputs:
        channels = _channels(spec, signature.block)
        if channels is None:
            raise BoardError(
                f"input {spec.name!r} is no stream of {signature.block} samples a block",
                hint="use the two C files of the archive in your own way",
            )
        fields.append(
            {
                "name": spec.name,
                "ctype": C_TYPES[spec.dtype],
                "channels": channels,
                "interleaved": spec.interleaved,
                "elements": spec.elements,
                "is_float": spec.dtype.startswith("float"),
                **_limits(spec.dtype),
            }
        )
    outputs = [
        {
            "name": spec.name,
            "ctype": C_TYPES[spec.dtype],
            "elements": spec.elements,
            "is_float": spec.dtype.startswith("float"),
        }
        for spec in signature.outputs
    ]
    return {"fields": fields, "results": outputs}


def _limits(dtype: str) -> dict[str, str]:
    """The least and the largest number of an integer type, as C."""
    if dtype.startswith("float"):
        return {"least": "", "most": ""}
    limits = np.iinfo(dtype)
    return {"least": f"{limits.min}.0", "most": f"{limits.max}.0"}


def _channels(spec: InputSpec, block: int) -> int | None:
    if len(spec.shape) != 2 or block <= 0:
        return None
    time, channels = spec.shape if spec.interleaved else spec.shape[::-1]
    return channels if time == block else None
