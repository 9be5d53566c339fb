"""`--config FILE`: defaults for any command, from TOML or JSON.

[compile]
target = "cortex-m7"
budget = "ram=16K,load=50%@64MHz"
tap = ["0", "1"]
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from microddsp.errors import nearest

# What takes options and sub-commands: its `commands` by name.
Group = Any


def read_defaults(path: Path, group: Group) -> dict[str, Any]:
    """Defaults by command and parameter, as click takes them; options may be written with dashes.

    Raises:
        typer.BadParameter: No such file, not TOML or JSON, or a command or option is unknown.
    """
    try:
        text = path.read_text()
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise typer.BadParameter(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise typer.BadParameter(f"{str(path)!r} cannot be read: {error}") from error
    return _checked(data, group, str(path))


def _checked(data: Any, group: Group, where: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise typer.BadParameter(f"{where}: a table of options is needed")
    found: dict[str, Any] = {}
    for command, options in data.items():
        if command not in group.commands:
            hint = nearest(command, sorted(group.commands))
            raise typer.BadParameter(f"{where}: there is no command {command!r}\n{hint}")
        inner = group.commands[command]
        if hasattr(inner, "commands"):
            found[command] = _checked(options, inner, f"{where}: {command}")
        else:
            found[command] = _options(options, inner, f"{where}: {command}")
    return found


def _options(options: Any, command: Any, where: str) -> dict[str, Any]:
    """Values by the names of parameters; what is no text or list is turned into what a user would
    have typed."""
    if not isinstance(options, Mapping):
        raise typer.BadParameter(f"{where}: a table of options is needed")
    names: dict[str, Any] = {}
    for parameter in command.params:
        for option in parameter.opts:
            if option.startswith("--") and option != "--help":
                names[option.removeprefix("--")] = parameter
    given: dict[str, Any] = {}
    for key, value in options.items():
        parameter = names.get(key.replace("_", "-"))
        if parameter is None:
            raise typer.BadParameter(f"{where}: no option {key!r}\n{nearest(key, sorted(names))}")
        if isinstance(value, Mapping) or isinstance(value, list) is not bool(parameter.multiple):
            wanted = "a list" if parameter.multiple else "a single value"
            raise typer.BadParameter(f"{where}: {key} needs {wanted}")
        given[parameter.name] = value
    return given
