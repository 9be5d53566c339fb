"""`microddsp boards`, `targets` and `ops`: what there is, with one line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from microddsp.cli.arguments import refuse
from microddsp.cli.derivatives import DERIVATIVES
from microddsp.cli.operators import OPERATORS
from microddsp.cli.render import show_json, show_table
from microddsp.errors import BoardError
from microddsp.micro.boards import Board
from microddsp.micro.boards import boards as all_boards
from microddsp.micro.boards.catalogue import read_board
from microddsp.micro.rpc.boards_attached import attached as attached_boards
from microddsp.micro.rpc.boards_attached import list_ports
from microddsp.micro.targets import TARGETS

Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


def boards(
    as_json: Json = False,
    attached: Annotated[
        bool, typer.Option("--attached", help="Only real boards that are on USB now.")
    ] = False,
    file: Annotated[list[Path] | None, typer.Option(help="Your own boards, as TOML files.")] = None,
) -> None:
    """List the boards that models can run on."""
    try:
        known = [*all_boards(), *map(read_board, file or ())]
    except BoardError as error:
        raise refuse(error, "--file") from error
    if attached:
        _attached(known, as_json)
        return
    rows = [{"name": b.name, "target": b.target, "description": b.description} for b in known]
    if as_json:
        show_json(rows)
    else:
        columns = ("board", "target", "")
        show_table("Boards", columns, [tuple(row.values()) for row in rows])


def _attached(known: Sequence[Board], as_json: bool) -> None:
    rows = [
        {"name": name, "port": port.path, "serial_number": port.serial_number}
        for name, port in attached_boards(list_ports(), known)
    ]
    if as_json:
        show_json(rows)
    else:
        columns = ("board", "port", "serial number")
        show_table("Attached boards", columns, [tuple(row.values()) for row in rows])


def targets(as_json: Json = False) -> None:
    """List the CPUs that models can be compiled for."""
    found = sorted(TARGETS.values(), key=lambda target: target.name)
    if as_json:
        show_json([asdict(target) for target in found])
    else:
        rows = [(t.name, "yes" if t.fpu else "no", t.description) for t in found]
        show_table("Targets", ("target", "FPU", ""), rows)


def ops(
    as_json: Json = False,
    derivatives: Annotated[
        bool, typer.Option("--derivatives", help="What can be differentiated, and how.")
    ] = False,
) -> None:
    """List blocks and operators: what has gradients, what compiles."""
    if derivatives:
        _derivatives(as_json)
        return
    if as_json:
        show_json([asdict(operator) for operator in OPERATORS])
        return
    rows = [
        (o.name, o.kind, o.gradients, "yes" if o.compiles else "no", o.description)
        for o in OPERATORS
    ]
    show_table("Blocks and operators", ("name", "kind", "gradients", "compiles", ""), rows)


def _derivatives(as_json: bool) -> None:
    if as_json:
        show_json([asdict(line) for line in DERIVATIVES])
        return
    mark = {True: "yes", False: "no"}
    rows = [
        (d.name, d.reverse, mark[d.forward], mark[d.second], mark[d.compiles], d.note)
        for d in DERIVATIVES
    ]
    show_table("Derivatives", ("", "reverse", "forward", "second", "compiles", ""), rows)
