"""The command `microddsp`: which commands there are, and how an error ends one.

Exit status: 0 done, 1 something in the user's model or files, 2 usage, 3 board or link.
Nothing heavy is imported before a command has checked its arguments.
"""

from __future__ import annotations

import gc
import io
import logging
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, TextIO

import typer

from microddsp.cli.catalogue import boards, ops, targets
from microddsp.cli.compile import compile_command
from microddsp.cli.defaults import read_defaults
from microddsp.cli.farm import farm
from microddsp.cli.fit import fit_command
from microddsp.cli.micro import micro
from microddsp.cli.pack import pack_command
from microddsp.cli.report import report_command
from microddsp.cli.run import run_command
from microddsp.cli.tune import tune_app
from microddsp.cli.verify_gradients import verify_gradients_command
from microddsp.errors import BoardError, MicroddspError, MicroddspWarning, ProjectError
from microddsp.interrupts import interruptible

USER_ERROR, BOARD_ERROR, INTERRUPTED = 1, 3, 130

app = typer.Typer(
    name="microddsp",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("compile")(compile_command)
app.command("run")(run_command)
app.command("report")(report_command)
app.command("pack")(pack_command)
app.command("fit")(fit_command)
app.command("verify-gradients")(verify_gradients_command)
app.command("boards")(boards)
app.command("targets")(targets)
app.command("ops")(ops)
app.add_typer(micro, name="micro")
app.add_typer(tune_app, name="tune")
app.add_typer(farm, name="farm")


def _version(wanted: bool) -> None:
    if wanted:
        from microddsp import __version__

        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(help="Defaults for any command, a TOML or JSON file: [compile] target = ..."),
    ] = None,
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", count=True, help="Tell the stages; -vv: each kernel.")
    ] = 0,
) -> None:
    """Differentiable DSP, from PyTorch to microcontrollers."""
    if config is not None:
        context.default_map = read_defaults(config, context.command)
    if verbose:
        logging.basicConfig(format="microddsp: %(message)s", stream=sys.stderr)
        level = logging.INFO if verbose == 1 else logging.DEBUG
        logging.getLogger("microddsp").setLevel(level)


def _one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, MicroddspWarning):
        typer.echo(f"microddsp: warning: {message}", err=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; always raises SystemExit."""
    # What torch and TVM make when they are imported stays: to look for garbage in it after every
    # 700 objects takes a second.
    gc.set_threshold(10_000)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # as stderr does: a name that the terminal cannot write is no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    given = sys.argv[1:] if arguments is None else list(arguments)
    # Taken out here, so that it works behind the command's name too.
    debug = "--debug" in given
    if not debug:
        warnings.showwarning = _one_line
    try:
        with interruptible():
            app(args=[text for text in given if text != "--debug"], prog_name="microddsp")
    except MicroddspError as error:
        if debug:
            traceback.print_exc()
        typer.echo(f"microddsp: error: {error}", err=True)
        of_board = isinstance(error, BoardError) and not isinstance(error, ProjectError)
        sys.exit(BOARD_ERROR if of_board else USER_ERROR)
    except KeyboardInterrupt:
        typer.echo("microddsp: interrupted", err=True)
        sys.exit(INTERRUPTED)
