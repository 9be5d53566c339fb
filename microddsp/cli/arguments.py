"""Option texts of the command line, turned into values. Light: runs before torch is imported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import typer

from microddsp.budget import KEYS, read_limits
from microddsp.errors import MicroddspError, ParameterError, nearest
from microddsp.micro.aot.memory_options import MemoryOptions
from microddsp.micro.boards import check_portless, find_board
from microddsp.micro.farm.address import is_farm_address, parse_address, parse_tracker
from microddsp.micro.package.names import is_c_name
from microddsp.micro.platforms.zephyr.boards import emulated_boards
from microddsp.micro.targets import find_target

_SHAPE = re.compile(r"([A-Za-z_]\w*):(\d+(?:,\d+)*)", re.ASCII)


def refuse(error: MicroddspError, option: str | None = None) -> typer.BadParameter:
    """A wrong argument, with the hint on a line of its own; `option` where no callback tells it."""
    text = f"{error.where}: {error.message}" if error.where else error.message
    text = f"{text}\n{error.hint}" if error.hint else text
    return typer.BadParameter(text, param_hint=f"'{option}'" if option else None)


def check_target(name: str) -> str:
    try:
        find_target(name)
    except MicroddspError as error:
        raise refuse(error) from error
    return name


def target_of(target: str | None, board: str | None) -> str:
    """The target that was named, else the board's, else the usual one."""
    if target is not None:
        return check_target(target)
    return find_board(board).target if board is not None else "cortex-m4f"


def check_board(name: str | None) -> str | None:
    if name is not None:
        try:
            if is_farm_address(name):
                address = parse_address(name)
                if address.board and address.board not in emulated_boards():
                    find_board(address.board)
            else:
                find_board(str(name))
        except MicroddspError as error:
            raise refuse(error) from error
    return name


def check_board_here(name: str | None) -> str | None:
    """A board of this computer, for commands that do not go through a farm's address."""
    if is_farm_address(name):
        raise typer.BadParameter(f"{name!r}: `microddsp run` alone takes a board's rpc:// address")
    return check_board(name)


def check_port(board: str, port: str | None, serial_number: str | None = None) -> None:
    """A port that nobody would look at is a mistake."""
    if is_farm_address(board) and (port or serial_number):
        raise typer.BadParameter("the boards of a farm have their port from its server")
    if not is_farm_address(board):
        try:
            check_portless(find_board(board), port, serial_number)
        except MicroddspError as error:
            raise refuse(error) from error


def check_tracker(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return str(parse_tracker(text))
    except MicroddspError as error:
        raise refuse(error) from error


def check_name(name: str | None) -> str | None:
    if name is not None and not is_c_name(name):
        raise typer.BadParameter(
            f"{name!r} cannot prefix C names: letters, digits and _, no keyword"
        )
    return name


def check_choice(text: str, known: Sequence[str], option: str) -> str:
    if text not in known:
        raise refuse(ParameterError(f"unknown {text!r}", hint=nearest(text, known)), option)
    return text


def parse_budget(text: str | None) -> dict[str, int | str]:
    """`ram=16K,flash=64K,load=50%@64MHz`: checked here, read by the compiler."""
    limits: dict[str, int | str] = {}
    for part in text.split(",") if text is not None else ():
        key, _, value = (word.strip() for word in part.partition("="))
        check_choice(key, KEYS, "--budget")
        if key in limits:
            raise refuse(ParameterError(f"{key} is given twice"), "--budget")
        try:
            read_limits({key: value})
        except ParameterError as error:
            raise refuse(error, "--budget") from error
        limits[key] = value
    return limits


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`name:1,64` -> name and shape, in the order given."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        match = _SHAPE.fullmatch(text)
        shape = tuple(map(int, match[2].split(","))) if match else ()
        if match is None or 0 in shape:
            raise typer.BadParameter(f"{text!r} is no shape; write name:channels,samples (x:1,64)")
        if match[1] in shapes:
            raise typer.BadParameter(f"input {match[1]!r} is given twice")
        shapes[match[1]] = shape
    return shapes


def parse_options(texts: Sequence[str]) -> dict[str, str]:
    """`key=value` texts of a platform."""
    options: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{text!r} is no option; write key=value")
        if key in options:
            raise typer.BadParameter(f"option {key!r} is given twice")
        options[key] = value
    return options


def parse_list(text: str | None, known: Sequence[str] = (), option: str = "") -> tuple[str, ...]:
    """`a,b` -> the words, each one of `known` if there are any."""
    words = tuple(word.strip() for word in text.split(",")) if text else ()
    for word in words:
        if known:
            check_choice(word, known, option)
    return words


def parse_tunables(texts: Sequence[str]) -> list[str] | dict[str, str]:
    """Paths, or `name=path` for all of them."""
    return parse_options(texts) if any("=" in text for text in texts) else list(texts)


def parse_settings(texts: Sequence[str]) -> dict[str, float | list[float]]:
    """`name=number`, or `name=number,number` for one a channel."""
    settings: dict[str, float | list[float]] = {}
    for name, text in parse_options(texts).items():
        try:
            numbers = [float(word) for word in text.split(",")]
        except ValueError as error:
            raise typer.BadParameter(f"{name}={text}: {text!r} is no number") from error
        settings[name] = numbers if "," in text else numbers[0]
    return settings


def parse_memory(
    workspace_align: int, constant_align: int | None, sections: str | None
) -> MemoryOptions:
    """Alignments, and `state=.dtcm,constants=.flash_ext` as names of sections by memory."""
    try:
        return MemoryOptions(workspace_align, constant_align, parse_options(parse_list(sections)))
    except ParameterError as error:
        raise refuse(error) from error


def check_archive(path: Path) -> Path:
    """A mistyped path is said at once, not after the imports."""
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {str(path)!r}")
    return path
