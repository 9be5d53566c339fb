"""Kinds of firmware projects and their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from microddsp.errors import BoardError, nearest
from microddsp.micro.boards import find_board


@dataclass(frozen=True, slots=True)
class Platform:
    """`options` maps each option's name to a check that raises BoardError."""

    name: str
    description: str
    options: Mapping[str, Callable[[str], object]]


def stack_size(text: str) -> int:
    """Bytes of stack, a multiple of 8.

    Raises:
        BoardError: The text is no such number.
    """
    if not text.isdecimal() or int(text) < 512 or int(text) % 8:
        raise BoardError(f"stack is {text!r}", hint="give bytes, 512 or more, a multiple of 8")
    return int(text)


def yes_or_no(text: str) -> bool:
    """A switch.

    Raises:
        BoardError: The text is neither.
    """
    if text not in ("yes", "no"):
        raise BoardError(f"{text!r} is neither yes nor no")
    return text == "yes"


_OPTIONS: Mapping[str, Callable[[str], object]] = {
    "board": find_board,
    "stack": stack_size,
    "profile": yes_or_no,
}
PLATFORMS: dict[str, Platform] = {
    name: Platform(name, description, _OPTIONS)
    for name, description in (
        ("qemu", "bare metal for QEMU's boards, with a Makefile"),
        ("host", "a process on this computer that speaks as a device does"),
        ("serial", "bare metal for a board of yours behind a serial port"),
    )
}


def find_platform(name: str) -> Platform:
    """The platform of that name.

    Raises:
        BoardError: There is none; the hint names the nearest.
    """
    if name not in PLATFORMS:
        raise BoardError(f"unknown platform {name!r}", hint=nearest(name, PLATFORMS))
    return PLATFORMS[name]


def check_options(platform: Platform, options: Mapping[str, str]) -> dict[str, str]:
    """The options as given, if each one is known and has a value that it can have.

    Raises:
        BoardError: Unknown name, or a value that makes no sense.
    """
    for key, value in options.items():
        if key not in platform.options:
            raise BoardError(
                f"platform {platform.name} has no option {key!r}",
                hint=nearest(key, platform.options),
            )
        platform.options[key](value)
    return dict(options)
