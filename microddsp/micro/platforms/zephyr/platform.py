"""A normal Zephyr application for the user's own Zephyr."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from microddsp.errors import BoardError
from microddsp.micro.boards import Board
from microddsp.micro.platforms.flash import write_flash
from microddsp.micro.platforms.platform import (
    PROFILE,
    BuiltIn,
    Option,
    Project,
    ProjectFiles,
    byte_count,
)
from microddsp.micro.platforms.zephyr import build as zephyr
from microddsp.micro.platforms.zephyr.boards import (
    check_board_name,
    choose_board,
    emulated_boards,
)
from microddsp.micro.platforms.zephyr.files import project_files

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

_NODE = re.compile(r"[a-z][a-z0-9_]*")


def _generate(
    models: Sequence[CompiledModel], board: str | Board | None, options: Mapping[str, str]
) -> ProjectFiles:
    chosen = choose_board(
        board,
        models[0].target.name,
        int(options.get("clock", "0")),
        int(options.get("baud", "115200")),
    )
    return project_files(models, chosen, options)


def _flash(project: Project, port: str | None, serial_number: str | None) -> None:
    assert project.board
    if project.board.serial is None or project.board.serial.flash:
        write_flash(project, port, serial_number)
    else:
        zephyr.flash(project, serial_number)


def _check_node(text: str) -> object:
    if not _NODE.fullmatch(text):
        raise BoardError(f"uart is {text!r}", hint="the label of a devicetree node, as uart1")
    return text


def _number(name: str, hint: str) -> Callable[[str], object]:
    def check(text: str) -> object:
        if not text.isdecimal() or not 0 < int(text) < 2**32:
            raise BoardError(f"{name} is {text!r}", hint=hint)
        return int(text)

    return check


def _known_boards() -> tuple[str, ...]:
    return tuple(emulated_boards())


ZEPHYR = BuiltIn(
    "zephyr",
    "a Zephyr application for your own Zephyr (ZEPHYR_BASE or a west workspace)",
    (
        Option(
            "board",
            "any board of your Zephyr, or your file: mine.toml; these run in QEMU",
            "(the first of the model's target)",
            _known_boards,
            closed=False,
            check=check_board_name,
        ),
        Option(
            "heap",
            "bytes for the host's tensors",
            "(16384 or 16 blocks, for each model)",
            check=byte_count("heap", 2048),
        ),
        Option(
            "stack", "bytes of stack for a model", "(the board's)", check=byte_count("stack", 512)
        ),
        Option(
            "uart",
            "devicetree label of the UART that is the link",
            "(that of the console)",
            check=_check_node,
        ),
        Option(
            "clock",
            "the kernel's cycles a second on a real board",
            check=_number("clock", "hertz, its CONFIG_SYS_CLOCK_HW_CYCLES_PER_SEC"),
        ),
        Option(
            "baud",
            "bits a second of a real board's link",
            "115200",
            check=_number("baud", "bits a second, as 115200"),
        ),
        PROFILE,
    ),
    generate=_generate,
    build=zephyr.build,
    flash=_flash,
)
