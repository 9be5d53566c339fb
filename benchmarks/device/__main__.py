"""Measure everything, print one table, write build/bench/device.json."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks.device import baseline, ours
from benchmarks.device.harness import measure
from benchmarks.device.job import Job, Result
from benchmarks.device.jobs import all_jobs
from benchmarks.device.peers import PEERS
from benchmarks.device.table import OURS, SMALL, missed, table
from microddsp.errors import MicroddspError
from microddsp.micro.boards import find_board, list_boards
from microddsp.micro.targets import find_target

FOLDER = Path("build") / "bench"
BOARDS = [baseline.BOARD, "mps2-an385", "mps2-an500", "mps2-an505", "mps3-an547"]


def measure_ours(
    jobs: Sequence[Job], board: str, folder: Path, *, small: bool = False, tuned: Path | None = None
) -> list[Result]:
    """microddsp's figures of some jobs on one board; with `small` also those of `-Os`, with `tuned`
    those with the records there."""
    target = find_target(find_board(board).target)
    results = []
    for job in jobs:
        code = ours.code(job, target, tuned)
        if code is not None:
            results.append(measure(job, OURS, code, board, folder))
            if small:
                code = replace(code, optimise="-Os")
                results.append(measure(job, SMALL, code, board, folder))
    return results


def measure_peers(jobs: Sequence[Job], board: str, folder: Path, console: Console) -> list[Result]:
    """The other libraries' figures; says which could not be measured, and why."""
    target = find_target(find_board(board).target)
    results = []
    for name, make in PEERS.items():
        try:
            codes = [(job, make(job, target, folder)) for job in jobs]
        except MicroddspError as error:
            console.print(f"{name} is not measured on {board}: {error}", style="yellow")
            continue
        results += [measure(job, name, code, board, folder) for job, code in codes if code]
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console(width=220, stderr=options.json)
    jobs = [job for job in all_jobs() if options.only in job.key]
    folder = FOLDER.resolve()
    results: list[Result] = []
    for board in options.boards:
        console.print(f"measuring on {board}", style="dim")
        results += measure_ours(jobs, board, folder, small=True, tuned=options.tuned)
        if options.peers:
            results += measure_peers(jobs, board, folder, console)
    text = json.dumps([r.to_json() for r in results], indent=1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "device.json").write_text(text + "\n")
    if options.json:
        print(text)
    else:
        console.print(table(jobs, results, options.boards))
    return _judge(jobs, results, options, console)


def _judge(
    jobs: Sequence[Job], results: Sequence[Result], options: argparse.Namespace, console: Console
) -> int:
    """Say what is above its goal or baseline; only a wrong result is always an error."""
    mine = [r for r in results if r.library == OURS and r.board == baseline.BOARD]
    goals = {job.key: job for job in jobs}
    lines = [f"{r.job}: {line}" for r in mine for line in missed(goals[r.job], r)]
    for line in lines:
        console.print(f"goal missed: {line}", style="yellow")
    wrong = [f"{r.job}, {r.library} on {r.board}" for r in results if not r.correct]
    for line in wrong:
        console.print(f"wrong result: {line}", style="red")
    if options.update_baseline:
        baseline.write(mine)
    elif mine and baseline.compiler() == baseline.read()["compiler"]:
        for line in baseline.grown(mine, baseline.read()["rows"]):
            console.print(f"above the baseline: {line}", style="yellow")
    return 1 if wrong or (options.strict and lines) else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=__doc__)
    parser.add_argument("--only", default="", help="jobs whose key contains this")
    parser.add_argument("--boards", nargs="+", default=BOARDS, choices=list_boards())
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="only microddsp")
    parser.add_argument("--json", action="store_true", help="print JSON, not the table")
    parser.add_argument("--strict", action="store_true", help="exit 1 if a goal is missed")
    parser.add_argument(
        "--update-baseline", action="store_true", help=f"write {baseline.PATH.name}"
    )
    parser.add_argument(
        "--tuned", type=Path, metavar="DIR", help="tune each job first; trials are kept there"
    )
    options = parser.parse_args(arguments)
    if options.tuned and options.boards != [baseline.BOARD]:
        parser.error(f"jobs are tuned for {baseline.BOARD}: give --boards {baseline.BOARD}")
    if options.tuned and options.update_baseline:
        parser.error("the baseline is that of untuned jobs")
    if options.update_baseline and (options.only or baseline.BOARD not in options.boards):
        parser.error(f"the baseline is of all jobs on {baseline.BOARD}")
    return options


if __name__ == "__main__":
    sys.exit(main())
