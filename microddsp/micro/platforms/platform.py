"""What every kind of firmware project offers: options, files, build, flash."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from microddsp.errors import BoardError, nearest
from microddsp.micro.boards import Board
from microddsp.signature import Signature

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel


def any_text(text: str) -> object:
    """No check."""
    return text


@dataclass(frozen=True, slots=True)
class Option:
    """Something that a platform lets a person choose, as text.

    `default` is what stands there without it, or words in parentheses where the model decides.
    `known` gives the names that are known; others are refused only where `closed`. `check` raises
    BoardError.
    """

    name: str
    help: str
    default: str = ""
    known: Callable[[], tuple[str, ...]] = tuple
    closed: bool = True
    check: Callable[[str], object] = any_text

    def verify(self, text: str) -> None:
        """Whether the option can have this value.

        Raises:
            BoardError: It cannot.
        """
        known = self.known()
        if known and self.closed and text not in known:
            raise BoardError(f"unknown {self.name} {text!r}", hint=nearest(text, known))
        self.check(text)


@dataclass(frozen=True, slots=True)
class ProjectFiles:
    """What a platform writes: relative path -> content. `image` is relative too, "" if none;
    `pieces` are what a profile tells of a model, by its name."""

    board: Board | None
    image: str
    texts: Mapping[str, str]
    objects: Mapping[str, bytes] = field(default_factory=dict)
    pieces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Project:
    """What a project's manifest says. `image` is the firmware, whether built or not; `pieces` are
    what a profile tells of a model, by its name. A `board` of None: for any board."""

    directory: Path
    platform: str
    board: Board | None
    image: Path
    signatures: tuple[Signature, ...]
    pieces: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Platform:
    """A kind of firmware project.

    `generate` gives the files for models, a board (its name, or one of the user's own) and the
    other options; `build` gives the firmware's path; `flash` takes a serial port and a serial
    number, which may be None. `serves`: the firmware has the RPC server. Each of the functions
    raises BoardError, with words for the person who called.
    """

    name: str
    description: str
    options: tuple[Option, ...]
    generate: Callable[
        [Sequence[CompiledModel], str | Board | None, Mapping[str, str]], ProjectFiles
    ]
    build: Callable[[Project], Path]
    flash: Callable[[Project, str | None, str | None], None]
    serves: bool = True


def check_options(platform: Platform, options: Mapping[str, str]) -> dict[str, str]:
    """The options as given, if each one is known and has a value that it can have.

    Raises:
        BoardError: Unknown name, or a value that makes no sense.
    """
    known = {option.name: option for option in platform.options}
    for name, value in options.items():
        if name not in known:
            raise BoardError(
                f"platform {platform.name} has no option {name!r}", hint=nearest(name, known)
            )
        known[name].verify(value)
    return dict(options)


def byte_count(name: str, least: int) -> Callable[[str], object]:
    """A check for an option in bytes, a multiple of 8."""

    def check(text: str) -> object:
        if not text.isdecimal() or int(text) < least or int(text) % 8:
            raise BoardError(
                f"{name} is {text!r}", hint=f"give bytes, {least} or more, a multiple of 8"
            )
        return int(text)

    return check


PROFILE = Option("profile", "marks between the kernels, for profile()", "no", lambda: ("yes", "no"))
