"""The files of a Zephyr application: RPC server, port, configuration, the models as modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from microddsp.micro.boards import Board
from microddsp.micro.boards.board import FRAME_BYTES
from microddsp.micro.platforms.module import module_files
from microddsp.micro.platforms.platform import ProjectFiles
from microddsp.micro.platforms.profiling import instrument
from microddsp.micro.platforms.texts import (
    FRAME_FILES,
    SERVER_FILES,
    check_model_names,
    render,
    runtime_files,
    server_values,
)
from microddsp.micro.platforms.zephyr.boards import DRIVER, boards_with_slow_mpu
from microddsp.micro.platforms.zephyr.build import IMAGE

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

RUNTIME_FILES = (*SERVER_FILES, *FRAME_FILES, "port_zephyr.c", DRIVER)
_MADE = {
    "CMakeLists.txt": "CMakeLists.txt",
    "Kconfig": "Kconfig",
    "README.md": "README.md",
    "prj.conf": "prj.conf",
    "src/app.c": "app.c",
    "src/main.c": "main.c",
}
_HEAP_LEAST = 16384
# Tensors of one block twice over, and room for the blocks that are timed at once.
_HEAP_BLOCKS = 16


def project_files(
    models: Sequence[CompiledModel], board: Board, options: Mapping[str, str]
) -> ProjectFiles:
    """The whole application, without its manifest.

    Raises:
        BoardError: A model's name is one of the firmware's own or there twice, or it is object
            code.
    """
    check_model_names(models)
    assert board.zephyr
    pieces: dict[str, tuple[str, ...]] = {}
    files = {f"src/{name}": text for name, text in runtime_files(RUNTIME_FILES).items()}
    for model in models:
        sources = dict(model.sources)
        if options.get("profile") == "yes":
            sources, found = instrument(model)
            pieces |= {model.name: found} if found else {}
        module = module_files(model, sources)
        files |= {f"models/{model.name}/{name}": text for name, text in module.items()}
    overlay = board.zephyr.replace("@", "_").replace("/", "_")
    values = {
        **server_values(models, pieces),
        "board": board,
        "overlay": overlay,
        "slow_mpu": board.name in boards_with_slow_mpu(),
        "fpu": [model.target.name for model in models if model.target.fpu],
        "uart": options.get("uart", ""),
        "heap_bytes": options.get("heap") or sum(heap_bytes(model) for model in models),
        "stack_bytes": options.get("stack", board.stack_bytes),
        "frame_bytes": FRAME_BYTES,
        "sources": sorted(["app.c", "main.c", *(n for n in RUNTIME_FILES if n.endswith(".c"))]),
    }
    made = {**_MADE, f"boards/{overlay}.overlay": "board.overlay"}
    return ProjectFiles(board, IMAGE, files | render("zephyr", made, values), pieces=pieces)


def heap_bytes(model: CompiledModel) -> int:
    """Memory for the host's tensors, a multiple of 1024."""
    signature = model.signature
    block = sum(spec.nbytes + 64 for spec in (*signature.inputs, *signature.outputs))
    return max(_HEAP_LEAST, -(-_HEAP_BLOCKS * block // 1024) * 1024)
