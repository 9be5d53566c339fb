"""`microddsp tune`: search faster kernels by measuring; `microddsp tune show`: what was found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from microddsp.cli.arguments import (
    check_board_here,
    check_choice,
    check_port,
    check_tracker,
    parse_shapes,
    target_of,
)
from microddsp.cli.compile import example_blocks
from microddsp.cli.model_reference import HELP, load_module, parse_reference
from microddsp.cli.render import show_facts, show_json, show_table

if TYPE_CHECKING:
    from microddsp.tuning.report import Progress, Tuning

METRICS = ("cycles", "instructions", "size")


class _ModelFirst(TyperGroup):
    """`tune MODEL` is `tune model MODEL`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = (*self.commands, "-h", "--help")
        return super().parse_args(ctx, args if not args or args[0] in known else ["model", *args])


tune_app = typer.Typer(
    cls=_ModelFirst,
    no_args_is_help=True,
    help="Search faster kernels for a model by measuring: `tune MODEL -o db/`; `tune show db/`.",
)


@tune_app.command("model")
def tune_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=HELP)],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder of the trials; a session goes on there."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="One of `microddsp targets`  [default: the board's, cortex-m4f]"),
    ] = None,
    board: Annotated[
        str | None,
        typer.Option(callback=check_board_here, help="Where  [default: one of the target]"),
    ] = None,
    tasks: Annotated[str, typer.Option(help="Kernels: list, all, or numbers as 0,2-5.")] = "all",
    metric: Annotated[str, typer.Option(help="cycles, instructions or size.")] = "cycles",
    trials: Annotated[int, typer.Option(min=1, help="Of each kernel, earlier ones too.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="The same gives the same sequence.")] = 0,
    early_stop: Annotated[
        int | None, typer.Option(min=1, help="A kernel is done after so many without a better one.")
    ] = None,
    max_time: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds for everything.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds for one call of a board.")
    ] = 20.0,
    tracker: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", callback=check_tracker, help="Measure on the boards of a farm."
        ),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Which boards of the farm.")] = None,
    port: Annotated[str | None, typer.Option(help="Serial port of the board.")] = None,
    block: Annotated[int, typer.Option(min=1, help="Samples a channel in one call.")] = 64,
    channels: Annotated[int, typer.Option(min=1, help="Channels of the input.")] = 1,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(help="name:channels,samples, for each input, instead of the two above."),
    ] = None,
    narrow: Annotated[
        bool, typer.Option("--narrow", help="Store rounded constants in 8 or 16 bits.")
    ] = False,
    emit: Annotated[
        str,
        typer.Option(help="What may be delivered: c, obj or any; object code has more choices."),
    ] = "c",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure candidates for the kernels of a model; every trial is kept at once."""
    reference = parse_reference(model)
    shapes = parse_shapes(input_shape or ())
    listing = tasks == "list"
    if output is None and not listing:
        raise typer.BadParameter("-o says where the trials are kept: it is missing")
    check_choice(metric, METRICS, "--metric")
    check_choice(emit, ("c", "obj", "any"), "--emit")
    if key and not tracker:
        raise typer.BadParameter("--key is for a farm: --tracker says which")
    target = target_of(target, board)
    if board is not None:
        check_port(board, port)

    from microddsp.tuning.session import tune
    from microddsp.tuning.task import tuning_tasks

    module, carried = load_module(reference)
    inputs = carried if carried and not shapes else example_blocks(module, shapes, channels, block)
    if listing or output is None:
        _list(tuning_tasks(module, inputs, target=target, narrow=narrow, emit=emit), as_json)
        return
    with _Bar(quiet=as_json) as bar:
        result = tune(
            module,
            inputs,
            records=output,
            target=target,
            board=board,
            tasks=tasks,
            metric=metric,
            trials=trials,
            port=port,
            seed=seed,
            early_stop=early_stop,
            max_time_s=max_time,
            timeout_s=timeout,
            tracker=tracker,
            key=key,
            progress=bar.show,
            say=bar.say,
            narrow=narrow,
            emit=emit,
        )
    if as_json:
        show_json(result.to_json())
    else:
        _show(result, output)


@tune_app.command("show")
def show_command(
    folder: Annotated[Path, typer.Argument(metavar="DB", help="A folder of trials.")],
    svg: Annotated[Path | None, typer.Option(help="Draw the learning curves.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show what was found, for each kernel."""
    if not folder.exists():
        raise typer.BadParameter(f"there is no folder {str(folder)!r}")
    if svg is not None and svg.suffix != ".svg":
        raise typer.BadParameter("curves are drawn as .svg")
    if svg is not None and not svg.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {str(svg.parent)!r}")

    from microddsp.tuning.database import known_trials
    from microddsp.tuning.show import by_kernel, plot_curves

    kernels = by_kernel(known_trials(folder))
    if svg is not None:
        plot_curves(kernels, svg)
    if as_json:
        show_json([kernel.to_json() for kernel in kernels])
        return
    where = {(k.cpu, k.board, k.metric) for k in kernels}
    same = len(where) == 1
    title = f"{sum(len(k.trials) for k in kernels)} trials"
    if same:
        cpu, board, metric = where.pop()
        title += f", {metric} on {board} ({cpu})"
    columns = ("kernel", "trials", "failed", "default", "best", "gain")
    show_table(
        title,
        columns if same else ("kernel", "cpu", "board", "metric", *columns[1:]),
        [
            (
                *((k.kernel,) if same else (k.kernel, k.cpu, k.board, k.metric)),
                *(len(k.trials), sum(k.reasons.values()), _figure(k.default)),
                *(_figure(k.best.value if k.best else None), f"{k.gain:.2f}" if k.gain else "-"),
            )
            for k in kernels
        ],
    )
    show_table(
        "the best ones",
        ("kernel", "choices"),
        [(k.kernel, _choices(k.best.choices)) for k in kernels if k.best],
    )
    failures = [(k.kernel, count, why) for k in kernels for why, count in k.reasons.items()]
    if failures:
        show_table("failed", ("kernel", "trials", "reason"), failures)


class _Bar:
    """Trials done, of all; the best of the kernel that is measured; the time that remains."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.fields[kernel]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[best]}"),
            TextColumn("{task.fields[left]}"),
            console=Console(stderr=True),
            disable=quiet,
        )
        self._line = self._bars.add_task("", total=None, kernel="", best="", left="")

    def __enter__(self) -> _Bar:
        self._bars.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_reason: object) -> None:
        if error is not None and issubclass(error, KeyboardInterrupt):
            typer.echo("microddsp: interrupted; the same command goes on from here", err=True)
        if error is not None and not self._bars.tasks[0].total:
            self._bars.update(self._line, visible=False)  # an error before anything was measured
        self._bars.stop()

    def say(self, words: str) -> None:
        """A line above the bar, on the standard error."""
        self._bars.console.print(f"microddsp: warning: {words}", soft_wrap=True, markup=False)

    def show(self, now: Progress) -> None:
        left = "" if now.seconds_left is None else f"{now.seconds_left:.0f} s left"
        self._bars.update(
            self._line,
            completed=now.done,
            total=now.wanted,
            kernel=now.kernel,
            best=f"best {now.best:.6g}, default {now.default:.6g}",
            left=left,
        )


def _list(tasks: Any, as_json: bool) -> None:
    rows = [
        {
            "task": task.index,
            "kernel": task.name,
            "key": task.key,
            "choices": {c.name: list(c.values) for c in task.choices},
        }
        for task in tasks
    ]
    if as_json:
        show_json(rows)
        return
    show_table(
        "kernels",
        ("task", "kernel", "choices"),
        [(r["task"], r["kernel"], ", ".join(r["choices"]) or "tiles only") for r in rows],
    )


def _show(result: Tuning, folder: Path) -> None:
    show_table(
        f"{result.metric} on {result.board}",
        ("kernel", "trials", "failed", "default", "best", "gain", "ended"),
        [
            (
                *(k.name, k.trials, k.failed, _figure(k.default), _figure(k.best)),
                *(f"{k.gain:.2f}", k.ended),
            )
            for k in result.kernels
        ],
    )
    show_facts("the best ones", {k.name: _choices(k.choices) for k in result.kernels})
    show_facts(
        "",
        {
            "measured now": result.new_trials,
            "time": f"{result.seconds:.0f} s",
            **({"flash written": f"{result.flashes} times"} if result.flashes else {}),
            "trials in": folder,
            "use them": f"microddsp compile MODEL --tuning-records {folder}",
        },
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _choices(choices: Any) -> str:
    return " ".join(f"{name}={value}" for name, value in choices.items())
