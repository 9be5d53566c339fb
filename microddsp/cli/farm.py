"""`microddsp farm`: boards of several computers, handed out by TVM's tracker."""

from __future__ import annotations

import ipaddress
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer

from microddsp.cli.arguments import check_tracker, refuse
from microddsp.cli.render import show_json, show_table
from microddsp.errors import MicroddspError
from microddsp.micro.boards import DEFAULT_BOARD, HOST, Board, check_portless, find_board
from microddsp.micro.farm.address import check_key, parse_tracker

farm = typer.Typer(
    name="farm",
    no_args_is_help=True,
    help="Hand out boards of this and other computers.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_LOOPBACK = "127.0.0.1"
_TRACKER_PORT = 9190


Tracker = Annotated[
    str,
    typer.Option("--tracker", metavar="HOST:PORT", callback=check_tracker, help="Whom to ask."),
]
Host = Annotated[str, typer.Option(help="Address to listen on.")]


@farm.command("tracker")
def tracker(
    host: Host = _LOOPBACK,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any that is free.")
    ] = _TRACKER_PORT,
) -> None:
    """Run TVM's tracker, which knows the boards and hands them out, until Ctrl-C."""
    from microddsp.micro.farm.tracker import serve_tracker

    _import_tvm()

    _warn_of(host)
    with _until_interrupted():
        serve_tracker(host, port, lambda found: _say(f"tracker on {host}:{found}"))


@farm.command("serve")
def serve(
    tracker: Tracker,
    board: Annotated[
        list[str] | None, typer.Option(help="A board's name or file; may be repeated.")
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, max=64, help="So many of each, of emulated boards.")
    ] = 1,
    key: Annotated[
        str | None, typer.Option(help="Under which clients ask; the board's name otherwise.")
    ] = None,
    host: Host = _LOOPBACK,
    ports: Annotated[
        str, typer.Option(metavar="FIRST-LAST", help="Ports to listen on, one for each board.")
    ] = "9091-9990",
    announce: Annotated[
        str | None, typer.Option(help="Address that clients are told, where it is another.")
    ] = None,
    port: Annotated[
        str | None, typer.Option(help="Serial port of a real board; found by USB otherwise.")
    ] = None,
    serial_number: Annotated[
        str | None, typer.Option(help="Which one of several real boards.")
    ] = None,
) -> None:
    """Offer boards of this computer to a tracker until Ctrl-C."""
    first, last = _parse_ports(ports)
    names = board or [DEFAULT_BOARD]
    try:
        found = [_find_board(name) for name in names]
        check_key(key or found[0].name)
    except MicroddspError as error:
        raise refuse(error) from error
    if key and len({b.name for b in found}) > 1:
        raise typer.BadParameter("boards under one key must be alike: one command for each key")
    for each in found:
        try:
            check_portless(each, port, serial_number)
        except MicroddspError as error:
            raise refuse(error) from error
    if any(b.serial for b in found) and (count > 1 or len(found) > 1):
        raise typer.BadParameter("a command offers one real board")

    from microddsp.micro.farm.server import Listening, Place
    from microddsp.micro.farm.server import serve as serve_boards

    _import_tvm()
    _warn_of(host)
    if any(b.name == HOST for b in found):
        _say("warning: what clients send for the board 'host' runs as a program of this computer")
    logging.basicConfig(format="microddsp: %(message)s", stream=sys.stderr)
    places = [Place(b, key or b.name, port, serial_number) for b in found for _ in range(count)]
    listening = Listening(host, (first, last + 1), announce)
    with _until_interrupted():
        serve_boards(
            places,
            parse_tracker(tracker),
            listening,
            lambda place, at: _say(f"{place.key} ({place.board.name}) on {host}:{at}"),
        )


@farm.command("status")
def status(
    tracker: Tracker,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show the boards of a tracker: how many, free, busy, and requests that wait."""
    from microddsp.micro.farm.tracker import tracker_status

    _import_tvm()
    found = tracker_status(parse_tracker(tracker))
    if as_json:
        show_json([{**asdict(s), "busy": s.busy} for s in found])
        return
    rows = [(s.key, s.boards, s.free, s.busy, s.waiting) for s in found]
    show_table(f"Boards at {tracker}", ("key", "boards", "free", "busy", "waiting"), rows)


def _find_board(name: str) -> Board:
    from microddsp.micro.platforms.zephyr.boards import emulated_boards

    return emulated_boards().get(name) or find_board(name)


def _parse_ports(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not (first.isdecimal() and (last or first).isdecimal()):
        raise typer.BadParameter(f"{text!r} are no ports; write FIRST-LAST")
    low, high = int(first), int(last or first)
    if not 1 <= low <= high <= 65535:
        raise typer.BadParameter(f"{text!r} are no ports; write FIRST-LAST")
    return low, high


def _import_tvm() -> None:
    """TVM without torch, which it takes along where it finds it: a third of the time and half of
    the memory."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import tvm.rpc.server
        import tvm.rpc.tracker  # noqa: F401
    finally:
        if hidden:
            del sys.modules["torch"]


def _warn_of(host: str) -> None:
    try:
        private = ipaddress.ip_address(host).is_loopback
    except ValueError:
        private = host == "localhost"
    if not private:
        _say(
            f"warning: whoever reaches {host} can run programs here with your rights: "
            "TVM's RPC has no password"
        )


@contextmanager
def _until_interrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM are how a server ends, and no error."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        _say("ended")


def _say(text: str) -> None:
    typer.echo(f"microddsp: {text}", err=True)
