"""Many candidates for one kernel on an emulated board, each checked and timed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from microddsp.errors import BoardError, CompileError, ParameterError
from microddsp.micro.boards import Board
from microddsp.micro.cycles.cortex_m4 import Listing
from microddsp.micro.cycles.counting import OVER_LIMIT, Block, build_plugin, executed, run_sections
from microddsp.micro.targets import find_target
from microddsp.tuning.image import DAMAGED, FAULT, Run, link_image, read_runs, write_values
from microddsp.tuning.objects import BuiltCandidate, in_brief
from microddsp.tuning.reference import OUTSIDE, difference, run_here
from microddsp.tuning.source import arena_of, filled

if TYPE_CHECKING:
    from microddsp.tuning.task import Candidate

METRICS = ("cycles", "instructions", "size")
MODELLED = ("cortex-m4f",)
# More instructions than so many times the default's are as good as endless.
_TIMES_DEFAULT = 20
_AT_LEAST = 1_000_000

Job = tuple["Candidate", BuiltCandidate]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of a trial: figures by metric (and "stack" in bytes), or the reason why there
    are none."""

    figures: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Values:
    """The signals of a kernel (its parameters without the tables) before each run, and what its
    default makes of them."""

    runs: tuple[tuple[np.ndarray, ...], ...]
    expected: tuple[tuple[np.ndarray, ...], ...]

    @classmethod
    def of(cls, default: Candidate, runs: Sequence[Sequence[np.ndarray]]) -> Values:
        """By running the default on this computer; one array for each of its parameters."""
        places = list(arena_of(default).signals)
        signals = tuple(tuple(arrays[i] for i in places) for arrays in runs)
        return cls(signals, tuple(tuple(run_here(default, run)) for run in signals))

    def before(self, candidate: Candidate, nbytes: int = 0) -> list[np.ndarray]:
        """The arena, of so many bytes at least, before each run.

        Raises:
            CompileError: The candidate takes other arguments than the default.
        """
        return [filled(candidate, signals, nbytes) for signals in self.runs]

    def wrong(self, candidate: Candidate, arenas: Sequence[np.ndarray]) -> str:
        """What is wrong with the arenas after all runs, "" if nothing is."""
        before = self.before(candidate, len(arenas[0]))
        for b, after, expected in zip(before, arenas, self.expected, strict=True):
            reason = difference(candidate, b, after, expected)
            if reason:
                return reason
        return ""


class Bench:
    """Measures candidates for one kernel on an emulated board. Close it in the end."""

    def __init__(self, board: Board, values: Values, *, timeout_s: float = 20.0) -> None:
        """`timeout_s` is for one start of the emulator.

        Raises:
            ParameterError: The board is not emulated.
        """
        if board.qemu is None:
            raise ParameterError(f"{board.name} is no emulated board")
        self.board, self.values, self.timeout_s = board, values, timeout_s
        self.target = find_target(board.target)
        self.limit = 0
        self._folder = tempfile.TemporaryDirectory(prefix="microddsp-")
        self._where = Path(self._folder.name)
        self._plugin = build_plugin(self._where)
        self._images = 0

    def expect(self, figures: Mapping[str, float]) -> None:
        """Candidates that run much longer than the default, which has these, are stopped."""
        self.limit = max(int(figures["instructions"] * _TIMES_DEFAULT), _AT_LEAST)

    def measure(self, jobs: Sequence[Job]) -> list[Outcome]:
        """One outcome for each, in their order; no candidate keeps the others from theirs."""
        found: dict[int, Outcome] = {}
        for i, (candidate, _) in enumerate(jobs):
            try:
                self.values.before(candidate)
            except CompileError as error:
                found[i] = Outcome(reason=error.message)
        good = [i for i in range(len(jobs)) if i not in found]
        found |= dict(zip(good, self._measure([jobs[i] for i in good]), strict=True))
        return [found[i] for i in range(len(jobs))]

    def close(self) -> None:
        self._folder.cleanup()

    def _measure(self, jobs: Sequence[Job]) -> list[Outcome]:
        if not jobs:
            return []
        self._images += 1
        where = self._where / f"image{self._images}"
        where.mkdir()
        try:
            built = [b for _, b in jobs]
            image = link_image(where, built, self.board, self.target, len(self.values.runs))
        except BoardError as error:
            if len(jobs) == 1:
                return [Outcome(reason=f"cannot be linked: {in_brief(error.message)}")]
            half = len(jobs) // 2
            return self._measure(jobs[:half]) + self._measure(jobs[half:])
        return self._run_all(image, jobs)

    def _run_all(self, image: Path, jobs: Sequence[Job]) -> list[Outcome]:
        """Run until every candidate had its turn: one that ends the emulator is left out of the
        next start, and what failed after another had written where it must not is tried again."""
        objdump = self.target.compiler.removesuffix("gcc") + "objdump"
        listing = Listing(image, objdump) if self.target.name in MODELLED else None
        nbytes = max(b.arena_bytes for _, b in jobs)
        outcomes: dict[int, Outcome] = {}
        while len(outcomes) < len(jobs):
            left = [i for i in range(len(jobs)) if i not in outcomes]
            write_values(image.parent, len(jobs), left, self.values.before(jobs[0][0], nbytes))
            done = run_sections(
                self.board, image, self._plugin, limit=self.limit, timeout_s=self.timeout_s
            )
            runs = read_runs(image.parent, nbytes)
            intact = True
            for i in left:
                mine = [
                    (run, section)
                    for run, section in zip(runs, done.sections, strict=False)
                    if run.candidate == i
                ]
                if len(mine) < len(self.values.runs):
                    if intact:
                        outcomes[i] = Outcome(reason=self._why(done.status, done.words))
                    break
                reason = self.values.wrong(jobs[i][0], [run.arena for run, _ in mine])
                if not reason:
                    outcomes[i] = Outcome(self._figures(mine, jobs[i][1], listing))
                elif intact:
                    outcomes[i] = Outcome(reason=reason)
                intact = intact and reason != OUTSIDE
        return [outcomes[i] for i in range(len(jobs))]

    def _why(self, status: int | None, words: str) -> str:
        if status is None:
            return f"hangs: not done after {self.timeout_s:g} s"
        if status == OVER_LIMIT:
            return f"hangs: more than {self.limit} instructions"
        known = {FAULT: "stops with a fault", DAMAGED: "writes into the program"}
        return known.get(status, f"ends the emulator with status {status}: {words[-200:]}")

    def _figures(
        self,
        runs: Sequence[tuple[Run, list[Block]]],
        built: BuiltCandidate,
        listing: Listing | None,
    ) -> dict[str, float]:
        """Means over the runs; cycles are in the middle of what the model says."""
        figures = {
            "instructions": sum(executed(section) for _, section in runs) / len(runs),
            "size": float(built.nbytes),
            "stack": float(max(run.stack_bytes for run, _ in runs)),
        }
        if listing is not None:
            cycles = [listing.cycles(section) for _, section in runs]
            figures["cycles"] = sum(c.low + c.high for c in cycles) / (2 * len(runs))
        return figures
