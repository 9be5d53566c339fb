"""How results are shown: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from microddsp.signature import TensorSpec


def show_json(value: object) -> None:
    """Print `value` as JSON; NumPy values become lists and numbers."""
    typer.echo(json.dumps(value, indent=2, default=_plain))


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    Console(highlight=False, markup=False).print(table)


def show_facts(title: str, facts: Mapping[str, object]) -> None:
    """One line for each name and value."""
    show_table(title, ("", ""), facts.items())


def describe(spec: TensorSpec) -> str:
    """`count int32 1x1`"""
    return f"{spec.name} {spec.dtype} {'x'.join(map(str, spec.shape)) or 'scalar'}"


def as_json(value: object) -> Any:
    """A report as plain data: its own `to_json`, or its fields."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value


def _cell(value: object) -> Any:
    from rich.text import Text

    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return Text(text)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return as_json(value) if is_dataclass(value) else str(value)
