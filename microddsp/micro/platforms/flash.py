"""Writing firmware into a real board with the tool that its file names."""

from __future__ import annotations

import subprocess
from pathlib import Path

from microddsp.errors import BoardError
from microddsp.micro.boards import Serial
from microddsp.micro.platforms.platform import Project
from microddsp.micro.rpc.start import check_built
from microddsp.micro.tools import find_tool

_LIMIT_S = 180.0


def write_flash(project: Project, port: str | None, serial_number: str | None) -> None:
    """Run the board's flash command, then its reset command, where it has them.

    Raises:
        BoardError: A tool is missing or failed; the message has its words.
    """
    serial = project.board.serial if project.board else None
    if serial is None:
        name = project.board.name if project.board else project.platform
        raise BoardError(f"{name} has no flash to write", hint="run it")
    check_built(project.image)
    flash_image(serial, project.image, port, serial_number)


def flash_image(serial: Serial, image: Path, port: str | None, serial_number: str | None) -> None:
    """The same for a firmware of its own.

    Raises:
        BoardError: A tool is missing or failed; the message has its words.
    """
    for command in (serial.flash, serial.reset):
        if command:
            _run(fill(command, image, port=port, serial_number=serial_number))


def fill(
    command: list[str],
    image: Path,
    *,
    port: str | None,
    serial_number: str | None,
    gdb_port: str | None = None,
) -> list[str]:
    """The words of a command with {image}, {hex}, {bin}, {port} and {serial_number} filled in.

    A word whose serial number or port is not known is left out, together with the option before
    it: `["-u", "{serial_number}"]`.

    Raises:
        BoardError: A word asks for something else, or the image cannot be converted.
    """
    words: list[str] = []
    values = {"image": str(image), "port": port, "serial_number": serial_number}
    if gdb_port is not None:
        values["gdb_port"] = gdb_port
    for kind, form in (("hex", "ihex"), ("bin", "binary")):
        if any(f"{{{kind}}}" in word for word in command):
            values[kind] = str(_converted(image, kind, form))
    for word in command:
        wanted = [name for name in values if f"{{{name}}}" in word]
        if any(values[name] is None for name in wanted):
            if word == f"{{{wanted[0]}}}" and words and words[-1].startswith("-"):
                words.pop()
            continue
        for name in wanted:
            word = word.replace(f"{{{name}}}", str(values[name]))
        if "{" in word:
            raise BoardError(
                f"the board's command has {word!r}",
                hint="{image}, {hex}, {bin}, {port} and {serial_number} can be filled in",
            )
        words.append(word)
    return words


def _converted(image: Path, suffix: str, form: str) -> Path:
    made = image.with_suffix(f".{suffix}")
    _run(
        [find_tool("arm-none-eabi-objcopy", "convert firmware"), "-O", form, str(image), str(made)]
    )
    return made


def _run(words: list[str]) -> None:
    tool = find_tool(words[0], "write the board's flash")
    try:
        done = subprocess.run(
            [tool, *words[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_LIMIT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise BoardError(f"{words[0]} did not end within {_LIMIT_S:g} s") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()) or f"status {done.returncode}"
        raise BoardError(f"{' '.join(words)} failed:\n{said}")
