"""A model as a Zephyr module: a folder that any Zephyr application can take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from microddsp.errors import BoardError
from microddsp.micro.platforms.texts import render

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

_MADE = {
    "zephyr/module.yml": "module.yml",
    "zephyr/CMakeLists.txt": "CMakeLists.txt",
    "zephyr/Kconfig": "Kconfig",
    "zephyr/errno_of_libm.c": "errno_of_libm.c",
}


def module_files(
    model: CompiledModel,
    sources: Mapping[str, str] | None = None,
    *,
    more_sources: tuple[str, ...] = (),
) -> dict[str, str]:
    """Relative path -> text: the model in `src`, Zephyr's part in `zephyr`.

    `sources` are the model's own where they are not those of the archive; `more_sources` are C
    files beside the model in `src`, which the caller writes.

    Raises:
        BoardError: The model is object code.
    """
    if model.objects:
        raise BoardError(
            f"{model.name} is object code, and this project is made of C",
            hint="compile with --emit c",
        )
    texts = {f"src/{name}": text for name, text in (sources or model.sources).items()}
    values = {
        "name": model.name,
        "NAME": model.name.upper(),
        "target": model.target,
        "sources": sorted([f"{model.name}.c", *more_sources]),
    }
    return {**texts, **render("module", _MADE, values)}
