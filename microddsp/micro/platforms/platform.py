"""What every kind of firmware project offers: options, files, build, flash."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from microddsp.errors import BoardError, OptionError, ProjectError, nearest
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
    BoardError. `required` and `optional` name the steps that take it: "generate_project", "build",
    "flash", "open_transport".
    """

    name: str
    help: str
    default: str = ""
    known: Callable[[], tuple[str, ...]] = tuple
    closed: bool = True
    check: Callable[[str], object] = any_text
    type: str = "str"
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ("generate_project",)

    @property
    def steps(self) -> tuple[str, ...]:
        return (*self.required, *self.optional)

    def verify(self, text: str) -> None:
        """Whether the option can have this value.

        Raises:
            OptionError: It cannot.
        """
        known = self.known()
        if known and self.closed and text not in known:
            raise OptionError(f"unknown {self.name} {text!r}", hint=nearest(text, known))
        try:
            self.check(text)
        except BoardError as error:
            raise OptionError(error.message, where=error.where, hint=error.hint) from error


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
    what a profile tells of a model, by its name. A `board` of None: for any board, or the firmware
    has nothing to ask. `options` are those given, as texts.
    """

    directory: Path
    platform: str
    board: Board | None
    image: Path
    signatures: tuple[Signature, ...]
    pieces: Mapping[str, tuple[str, ...]]
    options: Mapping[str, str] = field(default_factory=dict)


class Platform(Protocol):
    """A kind of firmware project: one of ours, or a template of a third party.

    `serves`: the firmware has the RPC server. Each function raises BoardError, with words for the
    person who called.
    """

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def options(self) -> tuple[Option, ...]: ...

    @property
    def serves(self) -> bool: ...

    def create(
        self,
        directory: Path,
        models: Sequence[CompiledModel],
        board: str | Board | None,
        options: Mapping[str, str],
        /,
    ) -> Project:
        """Write all but the manifest, for models, a board (its name, or one of the user's own) and
        the other options."""
        ...

    def build(self, project: Project, /) -> Path:
        """Build the firmware; gives its path."""
        ...

    def flash(self, project: Project, port: str | None, serial_number: str | None, /) -> None:
        """Write the firmware into the board."""
        ...

    def reach(
        self, project: Project, port: str | None, serial_number: str | None = None, /
    ) -> list[str]:
        """Arguments of the bridge for the built firmware."""
        ...


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A platform of ours. `generate` gives the content of all files; `build`, `flash` and `serves`
    are as a Platform has them."""

    name: str
    description: str
    options: tuple[Option, ...]
    generate: Callable[
        [Sequence[CompiledModel], str | Board | None, Mapping[str, str]], ProjectFiles
    ]
    build: Callable[[Project], Path]
    flash: Callable[[Project, str | None, str | None], None]
    serves: bool = True

    def create(
        self,
        directory: Path,
        models: Sequence[CompiledModel],
        board: str | Board | None,
        options: Mapping[str, str],
        /,
    ) -> Project:
        """Write the files.

        Raises:
            BoardError: They cannot be written, or `generate` says why there are none.
        """
        made = self.generate(models, board, options)
        contents = {name: text.encode() for name, text in made.texts.items()} | dict(made.objects)
        try:
            for name, content in contents.items():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                (directory / name).write_bytes(content)
        except OSError as error:
            raise ProjectError(f"cannot be written: {error}", where=str(directory)) from error
        signatures = tuple(m.signature for m in models)
        image = directory / made.image
        return Project(directory, self.name, made.board, image, signatures, made.pieces, options)

    def reach(
        self, project: Project, port: str | None, _serial_number: str | None = None, /
    ) -> list[str]:
        """An emulator, a process, or a serial port, which says all: who calls has found it by the
        serial number.

        Raises:
            BoardError: It is not there, or a port is needed.
        """
        from microddsp.micro.rpc.start import start_command

        assert project.board
        return start_command(project.board, project.image, port)


def check_options(
    platform: Platform, options: Mapping[str, str], step: str = "generate_project"
) -> dict[str, str]:
    """The options as given, if each one is known and has a value that it can have, and those are
    there that the step needs.

    Raises:
        OptionError: Unknown or missing name, or a value that makes no sense.
    """
    known = {option.name: option for option in platform.options}
    for name, value in options.items():
        if name not in known:
            raise OptionError(
                f"platform {platform.name} has no option {name!r}", hint=nearest(name, known)
            )
        known[name].verify(value)
    for option in known.values():
        if step in option.required and option.name not in options:
            raise OptionError(
                f"platform {platform.name} needs option {option.name!r}: {option.help}",
                hint=f"-o {option.name}=...",
            )
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
