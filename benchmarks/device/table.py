"""The results as one table: ours beside the best of the others, the goal and the limit."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from benchmarks.device.job import Job, Result
from benchmarks.device.peers import PEERS

OURS = "microddsp"
SMALL = "microddsp -Os"
# Written for one set of numbers: a yardstick, but no library that one could use instead.
SPECIAL = "special C"


def missed(job: Job, ours: Result) -> list[str]:
    """What is above the job's goal. Modelled cycles count with their upper end."""
    goal = job.goal
    pairs = (
        ("instructions", ours.instructions, goal.instructions),
        ("modelled cycles", ours.cycles_high, goal.cycles),
        ("text", ours.text_bytes, goal.text_bytes),
        ("RAM", ours.ram_bytes, goal.ram_bytes),
    )
    return [
        f"{name} {value:g} > {wanted:g}"
        for name, value, wanted in pairs
        if value is not None and wanted is not None and value > wanted
    ]


def best_peer(results: Sequence[Result]) -> Result | None:
    """The fewest instructions among correct results of other libraries."""
    peers = [r for r in results if r.correct and r.library not in (OURS, SMALL, SPECIAL)]
    return min(peers, key=lambda r: r.instructions, default=None)


def table(jobs: Sequence[Job], results: Sequence[Result], boards: Sequence[str]) -> Table:
    """One row for every job and board; figures are per sample, or per frame."""
    made = Table(title="Executed instructions per sample or frame (exact); GCC -O3, float32")
    made.add_column("job")
    for name in (OURS, "goal", "/ limit", *PEERS, "/ best", "cycles", "best's cycles"):
        made.add_column(name, justify="right")
    for name in ("text B", "RAM B", "-Os", "error"):
        made.add_column(name, justify="right")
    for board in boards:
        made.add_section()
        made.add_row(f"[bold]{board}[/bold]")
        for job in jobs:
            found = [r for r in results if r.job == job.key and r.board == board]
            if found:
                made.add_row(*_row(job, found, goals=board == boards[0]))
    made.caption = (
        "cycles: modelled for Cortex-M4F, low-high. text, RAM: ours, best peer's. -Os: ours built "
        "so, instructions and text. Goals and limits are for the first board."
        f" {SPECIAL}: written for these numbers alone; not a peer."
    )
    return made


def _row(job: Job, results: Sequence[Result], *, goals: bool) -> list[str]:
    ours = next((r for r in results if r.library == OURS), None)
    best = best_peer(results)
    named = {r.library: r for r in results}
    ratio = ours.instructions / best.instructions if ours and best else None
    limit = ours.instructions / job.limit if ours and job.limit and goals else None
    return [
        job.title,
        _count(ours),
        _goal(job, ours) if goals else "",
        "" if limit is None else f"{limit:.2f}",
        *(_count(named.get(name)) for name in PEERS),
        "" if ratio is None else f"{ratio:.2f}",
        _cycles(ours),
        _cycles(best),
        _pair("text_bytes", ours, best),
        _pair("ram_bytes", ours, best),
        _small(named.get(SMALL)),
        "" if ours is None else f"{ours.error:.0e}",
    ]


def _goal(job: Job, ours: Result | None) -> str:
    """What was wished for, green where it is so."""
    goal = job.goal
    words = [
        f"{value:g}{unit}"
        for value, unit in (
            (goal.instructions, ""),
            (goal.cycles, " cycles"),
            (goal.text_bytes, " B text"),
            (goal.ram_bytes, " B RAM"),
        )
        if value is not None
    ]
    if not words or ours is None:
        return ", ".join(words)
    colour = "red" if missed(job, ours) else "green"
    return f"[{colour}]{', '.join(words)}[/{colour}]"


def _count(result: Result | None) -> str:
    if result is None:
        return ""
    if not result.correct:
        return "[red]wrong[/red]"
    value = result.instructions
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}"


def _cycles(result: Result | None) -> str:
    if result is None or result.cycles_low is None or result.cycles_high is None:
        return ""
    return f"{result.cycles_low:.0f}-{result.cycles_high:.0f}"


def _small(result: Result | None) -> str:
    return "" if result is None else f"{_count(result)}, {result.text_bytes}"


def _pair(figure: str, *results: Result | None) -> str:
    return ", ".join("-" if result is None else str(getattr(result, figure)) for result in results)
