"""MODEL on the command line: `file.py:factory`, `package.module:factory` or `exported.pt2`.

Loading a model runs the user's code; what is wrong with the text itself is found before.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING

import typer

from microddsp.errors import MicroddspError, nearest
from microddsp.micro.package.names import is_c_name

if TYPE_CHECKING:
    import torch

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
HELP = "file.py:factory, package.module:factory or a .pt2 file (its code is run)."


@dataclass(frozen=True, slots=True)
class ModelReference:
    """Where a model comes from: `source` is a file or a dotted name, `factory` is "" for a .pt2."""

    source: str
    factory: str = ""

    @property
    def default_name(self) -> str:
        """A C identifier made of the factory's name or the file's."""
        text = re.sub(r"\W", "_", self.factory or Path(self.source).stem, flags=re.ASCII).lower()
        return text if is_c_name(text) else "model"


def parse_reference(text: str) -> ModelReference:
    """Check everything about MODEL that needs no import.

    Raises:
        typer.BadParameter: It is no model, the file is missing, or it defines no such name.
    """
    if text.endswith(".pt2"):
        if not Path(text).is_file():
            raise typer.BadParameter(f"there is no file {text!r}")
        return ModelReference(text)
    source, colon, factory = text.rpartition(":")
    if not colon or not factory.isidentifier():
        hint = "\nan archive is compiled already; MODEL is what it was made from"
        raise typer.BadParameter(
            f"{text!r} names no factory: write file.py:factory" + hint * text.endswith(".tar")
        )
    if source.endswith(".py"):
        if not Path(source).is_file():
            raise typer.BadParameter(f"there is no file {source!r}")
        _check_defined(Path(source), factory)
    elif not _DOTTED.fullmatch(source):
        raise typer.BadParameter(f"{source!r} is neither a .py file nor a module's name")
    return ModelReference(source, factory)


def load_module(reference: ModelReference) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """The module, and the example inputs that a .pt2 carries (else none). Runs the user's code.

    Raises:
        MicroddspError: The code fails, or gives something that is no torch.nn.Module.
    """
    import torch

    if not reference.factory:
        with _UserCode(reference.source):
            program = torch.export.load(reference.source)
            arguments = program.example_inputs[0] if program.example_inputs else ()
            return program.module(), tuple(arguments)
    with _UserCode(reference.source):
        namespace = _import(reference.source)
    if not hasattr(namespace, reference.factory):
        raise MicroddspError(
            f"has no {reference.factory!r}",
            where=reference.source,
            hint=nearest(reference.factory, [n for n in vars(namespace) if n[0] != "_"]),
        )
    found = getattr(namespace, reference.factory)
    if not isinstance(found, torch.nn.Module):
        if not callable(found):
            kind = type(found).__name__
            raise MicroddspError(f"{reference.factory} is {kind}", where=reference.source)
        with _UserCode(reference.source):
            found = found()
    if not isinstance(found, torch.nn.Module):
        raise MicroddspError(
            f"{reference.factory} gives {type(found).__name__}, not a torch.nn.Module",
            where=reference.source,
        )
    return found.eval(), ()


def _check_defined(path: Path, factory: str) -> None:
    try:
        tree = ast.parse(path.read_text())
    except (SyntaxError, ValueError, OSError) as error:
        raise typer.BadParameter(f"{path}: {error}") from error
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            if node.name == "*":
                return
            names.add(node.asname or node.name.split(".")[0])
    if factory not in names:
        definitions = (ast.FunctionDef, ast.ClassDef)
        shown = [node.name for node in tree.body if isinstance(node, definitions)]
        hint = nearest(factory, shown or names)
        raise typer.BadParameter(f"{path} defines no {factory!r}\n{hint}")


def _import(source: str) -> ModuleType:
    if not source.endswith(".py"):
        # A console script does not have the current folder on its path, `python -m` has.
        sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(source)
    path = Path(source).resolve()
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {source}")
    module = importlib.util.module_from_spec(spec)
    # Pickling and dataclasses look a class's module up by name.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


class _UserCode:
    """Whatever the user's code raises becomes one message with the line in that code."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, MicroddspError):
            return
        where = self.source
        for frame in traceback.extract_tb(trace):
            if Path(frame.filename).name == Path(self.source).name:
                where = f"{self.source}:{frame.lineno}"
        raise MicroddspError(f"{type(error).__name__}: {error}", where=where) from error
