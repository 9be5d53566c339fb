"""The files of a flat firmware project: runtime as it is, the rest from templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from microddsp.errors import BoardError
from microddsp.micro.boards import Board
from microddsp.micro.platforms.platform import ProjectFiles
from microddsp.micro.platforms.profiling import instrument
from microddsp.micro.platforms.texts import (
    FRAME_FILES,
    RUNTIME,
    SERVER_FILES,
    check_model_names,
    render,
    runtime_files,
    server_values,
)
from microddsp.micro.targets import find_target

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

# File descriptors that the emulator inherits: above those that QEMU opens itself.
LINK_IN = 50
LINK_OUT = 51
_BUFFER = ("port_buffer.h", "port_buffer.c")
_PROTECTION = ("port_internal.h", "port_protect.c")
_CORTEX_M = (*_PROTECTION, "faults.c", "port_systick.c", "startup.c", "stdio.c")
_PLATFORM = {
    "qemu": (*_CORTEX_M, *_BUFFER, "port_semihosting.c"),
    "serial": (*_CORTEX_M, "port_serial.c"),
    "host": (*_PROTECTION, "port_posix.c"),
}


def project_files(
    models: Sequence[CompiledModel], board: Board, *, stack_bytes: int, profile: bool
) -> ProjectFiles:
    """The whole project.

    Raises:
        BoardError: A model's name is one of the firmware's own, or there twice.
    """
    check_model_names(models)
    image = f"{models[0].name}.elf"
    files = runtime_files([*SERVER_FILES, *_PLATFORM[board.platform]])
    if board.serial:
        files |= runtime_files(FRAME_FILES) | _driver(board)
    elif board.platform == "host":
        files |= runtime_files([*_BUFFER, "port_pipe.c"])
    pieces: dict[str, tuple[str, ...]] = {}
    for model in models:
        sources, found = instrument(model) if profile else (model.sources, ())
        files |= sources
        if found:
            pieces[model.name] = found
    objects = {name: content for model in models for name, content in model.objects.items()}
    values = {
        **server_values(models, pieces),
        "board": board,
        "target": find_target(board.target),
        "stack_bytes": stack_bytes,
        "image": image,
        "objects": sorted(n[:-2] + ".o" for n in {**files, "app.c": ""} if n.endswith(".c")),
        "kernels": sorted(objects),
        "link_in": LINK_IN,
        "link_out": LINK_OUT,
        "options": {
            "board": board.name,
            "stack": stack_bytes,
            "profile": "yes" if profile else "no",
        },
    }
    scripts = () if board.platform == "host" else ("board.ld",)
    made = ("app.c", "board.h", "Makefile", "README.md", *scripts)
    texts = files | render("bare", {name: name for name in made}, values)
    return ProjectFiles(board, image, texts, objects, pieces)


def _driver(board: Board) -> dict[str, str]:
    assert board.serial
    name = board.serial.driver
    for folder in (board.folder, RUNTIME):
        if folder is not None and (folder / name).is_file():
            return {name: (folder / name).read_text()}
    raise BoardError(
        f"there is no serial driver {name!r}",
        where=board.name,
        hint="it lies beside the board's file and implements uart.h",
    )
