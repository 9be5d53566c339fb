"""The link to a device: start, calls, tensors, a serial line, a farm.

    python -m benchmarks.link [--strict] [--json] [emulated] [zephyr] [serial] [farm]

The emulated board is mps2-an386; with Zephyr, where ZEPHYR_BASE names one, it is mps2_an385, whose
link is the UART of the console. The serial line is a pseudo-terminal of a certain rate before a
process. The fastest of several runs counts, as the machine may be busy; a farm's jobs, which take
turns on all cores, are the mean of a run. The ratio says how often the goal is reached: above 1 it
is. With --strict a goal that is missed ends the program with status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import tvm
from rich.console import Console
from rich.table import Table

import microddsp
from benchmarks.link.farms import farm, jobs_per_second
from benchmarks.link.line import line_board
from microddsp import dsp
from microddsp.micro.boards import Board, find_board
from microddsp.micro.platforms import Project, build_project, create_project, read_project
from microddsp.micro.session import BoardSession, open_project

BOARD = "mps2-an386"
ZEPHYR_BOARD = "mps2_an385"
PARTS = ("emulated", "zephyr", "serial", "farm")


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    value: float
    unit: str
    goal: float | None = None
    larger_is_better: bool = True

    @property
    def ratio(self) -> float | None:
        if self.goal is None:
            return None
        return self.value / self.goal if self.larger_is_better else self.goal / self.value


def fastest_s(run: Callable[[], object], times: int) -> float:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)


def make_project(
    folder: Path, board: str | Board, target: str = "", platform: str | None = None
) -> Project:
    target = target or (find_board(board) if isinstance(board, str) else board).target
    model = microddsp.compile(dsp.Gain(2.0), torch.zeros(1, 64), target=target, name="gain")
    create_project(folder, model, board, platform=platform)
    build_project(folder)
    return read_project(folder)


def copy_rates(project: Project, nbytes: int, times: int, port: str | None = None) -> list[float]:
    """Bytes a second to the device, and from it."""
    data = np.random.default_rng(0).integers(0, 255, nbytes, dtype=np.uint8)
    with open_project(project.directory, timeout_s=60.0, port=port) as board:
        return _copy_rates(board, data, times)


def _copy_rates(board: BoardSession, data: np.ndarray, times: int) -> list[float]:
    tensor = tvm.runtime.empty(data.shape, "uint8", device=board.session.cpu(0))
    there = fastest_s(lambda: tensor.copyfrom(data), times)
    back = fastest_s(tensor.numpy, times)
    assert np.array_equal(tensor.numpy(), data)
    return [data.nbytes / there, data.nbytes / back]


def _call_s(board: BoardSession) -> float:
    reset = board.session.get_function("reset")

    def calls() -> None:
        for _ in range(200):
            reset()

    return fastest_s(calls, 20) / 200


def emulated(project: Project) -> Iterator[Row]:
    def start() -> None:
        open_project(project.directory).close()

    start()  # imports what is imported at first use
    yield Row("start and end a session", fastest_s(start, 10), "s", 0.5, False)
    with open_project(project.directory) as board:
        block = np.ones((1, 64), np.float32)
        yield Row("a call, there and back", _call_s(board) * 1e6, "us", 100.0, False)
        one = fastest_s(lambda: board.run(block), 50)
        yield Row("board.run, a block of 64", one * 1e6, "us")
    there, back = copy_rates(project, 1 << 20, 20)
    yield Row("tensor to the device, semihosting", there / 1e6, "MB/s", 10.0)
    yield Row("tensor from the device, semihosting", back / 1e6, "MB/s", 10.0)


def zephyr(folder: Path) -> Iterator[Row]:
    if not os.environ.get("ZEPHYR_BASE"):
        print("ZEPHYR_BASE is not set: no Zephyr to measure with", file=sys.stderr)
        return
    project = make_project(folder / "zephyr", ZEPHYR_BOARD, "cortex-m3", "zephyr")
    with open_project(project.directory) as board:
        block = np.ones((1, 64), np.float32)
        device = board.session.cpu(0)
        x, y = (tvm.runtime.empty((1, 64), "float32", device=device) for _ in range(2))
        process = board.session.get_function("process")
        board.reset()
        for what, call in (
            ("a call of process, Zephyr's console UART", lambda: process(x, y)),
            ("board.run of a block of 64, the same", lambda: board.run(block)),
        ):
            goal = 1000.0 if "process" in what else None
            yield Row(what, fastest_s(call, 300) * 1e6, "us", goal, False)


def serial(folder: Path, baud: int) -> Iterator[Row]:
    """In percent of what the line carries, a byte in ten bits."""
    file = folder / f"line{baud}.toml"
    file.write_text(line_board(baud))
    project = make_project(folder / f"fw{baud}", find_board(str(file)))
    line = subprocess.Popen(
        [sys.executable, "-S", "-E", str(Path(__file__).with_name("line.py"))]
        + [str(project.image), str(baud)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert line.stdout
    try:
        port = line.stdout.readline().strip()
        there, back = copy_rates(project, baud // 10, 3, port)
    finally:
        line.kill()
        line.wait()
    yield Row(f"tensor to the device, {baud} baud", 1e3 * there / baud, "% of the line", 90.0)
    yield Row(f"tensor from the device, {baud} baud", 1e3 * back / baud, "% of the line", 90.0)


def farms(project: Project) -> Iterator[Row]:
    for count in (1, 2, 4):
        with farm(BOARD, count) as tracker:
            rate = jobs_per_second(tracker, project, count, 12 * count)
        yield Row(f"jobs of 100 calls, a farm of {count}", rate, "jobs/s")


def measure(parts: Collection[str]) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="microddsp-") as name:
        folder = Path(name)
        project = make_project(folder / "fw", BOARD)
        if "emulated" in parts:
            yield from emulated(project)
        if "zephyr" in parts:
            yield from zephyr(folder)
        for baud in (115_200, 921_600) if "serial" in parts else ():
            yield from serial(folder, baud)
        if "farm" in parts:
            yield from farms(project)


def show(rows: list[Row]) -> None:
    table = Table(title="The link", title_justify="left", box=None, pad_edge=False)
    for column in ("", "measured", "goal", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        goal = f"{row.goal:g} {row.unit}" if row.goal is not None else ""
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
        table.add_row(row.what, f"{row.value:.3g} {row.unit}", goal, ratio)
    Console(highlight=False, width=100).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 if a goal is missed")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("part", nargs="*", choices=(*PARTS, []), help="all otherwise")
    options = parser.parse_args()
    rows = []
    for row in measure(options.part or PARTS):
        print(f"{row.what}: {row.value:.3g} {row.unit}", file=sys.stderr, flush=True)
        rows.append(row)
    if options.json:
        print(json.dumps([{**asdict(row), "ratio": row.ratio} for row in rows], indent=2))
    else:
        show(rows)
    missed = [row.what for row in rows if row.ratio is not None and row.ratio < 1.0]
    if missed:
        print(f"below the goal: {'; '.join(missed)}", file=sys.stderr)
    return 1 if missed and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
