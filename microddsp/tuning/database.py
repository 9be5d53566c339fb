"""Trials on disk: a line for each, written once and kept, whatever happens to the program.

`trials.jsonl` is the truth. Beside it MetaSchedule's own database of each kernel is made from it
whenever the kernel is tuned (`search_database`).
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from microddsp import __version__
from microddsp.errors import RecordError, RecordWarning
from microddsp.micro.package.objects import find_compiler

if TYPE_CHECKING:
    from tvm.s_tir import meta_schedule as ms

    from microddsp.micro.targets import Target

TRIALS = "trials.jsonl"
FORMAT = 1
# What MetaSchedule calls the time of something that has none.
NEVER = 1e10


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate for a kernel: its figures, or the reason why it has none.

    `key` says what the kernel computes, `digest` which code this is, `number` which trial of the
    kernel (0: the default). `value` is that of `metric`. `trace` is MetaSchedule's, as JSON.
    """

    key: str
    kernel: str
    number: int
    digest: str
    metric: str
    value: float | None
    reason: str
    cpu: str
    compilers: Mapping[str, str]
    board: str
    seed: int
    at: str
    choices: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    trace: Any = None

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Trial:
        """
        Raises:
            RecordError: It is no trial, or one of another version.
        """
        given = dict(found)
        if given.pop("format", None) != FORMAT:
            raise RecordError(f"a trial of format {found.get('format')!r}")
        try:
            return cls(**given)
        except TypeError as error:
            raise RecordError(f"this is no trial: {error}") from error


class Records:
    """A folder of trials, held by one session at a time. Close it in the end."""

    def __init__(self, folder: str | Path) -> None:
        """Makes the folder if it is not there; a last line that was cut off is removed.

        Raises:
            RecordError: Another session has it, or it cannot be read or written.
        """
        self.folder = Path(folder)
        self._file: TextIO | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise RecordError(
                f"no folder for trials: {error.strerror}", where=str(folder)
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise RecordError(
                "another session writes its trials here",
                where=str(folder),
                hint="wait for its end, or give another folder",
            ) from error
        try:
            self.trials = read_trials(self.folder)
            self._mend()
            self._file = (self.folder / TRIALS).open("a")
        except BaseException:
            self.close()
            raise

    def append(self, trials: Iterable[Trial]) -> None:
        """Keep trials: they are on the disk when this returns."""
        assert self._file is not None
        added = list(trials)
        lines = [json.dumps(t.to_json(), sort_keys=True, allow_nan=False) + "\n" for t in added]
        self._file.write("".join(lines))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.trials += added

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._lock.close()

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _mend(self) -> None:
        """Without what an interrupted write left behind the last complete line."""
        path = self.folder / TRIALS
        content = path.read_bytes() if path.is_file() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)
                os.fsync(file.fileno())


def read_trials(folder: str | Path) -> list[Trial]:
    """All trials of a folder (or of its file), in their order; a last line that was cut off is
    left out with a warning.

    Raises:
        RecordError: The file cannot be read, or holds something else.
    """
    path = Path(folder)
    path = path if path.suffix == ".jsonl" else path / TRIALS
    try:
        lines = path.read_text(errors="replace").split("\n") if path.exists() else [""]
    except OSError as error:
        raise RecordError(f"cannot be read: {error}", where=str(path)) from error
    if lines[-1]:
        warnings.warn(
            f"{path}: the last line was cut off and is left out", RecordWarning, stacklevel=2
        )
    trials = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            trials.append(Trial.from_json(json.loads(line)))
        except (ValueError, AttributeError, RecordError) as error:
            raise RecordError(
                f"line {number} is no trial: {error}",
                where=str(path),
                hint="remove the line; the others can be used without it",
            ) from error
    return trials


def known_trials(folder: str | Path) -> list[Trial]:
    """`read_trials` where there must be one.

    Raises:
        RecordError: As `read_trials`, or there is none.
    """
    found = read_trials(folder)
    if not found:
        raise RecordError(
            "no tuning records", where=str(folder), hint="`microddsp tune MODEL -o DB` makes them"
        )
    return found


def best_trial(
    trials: Iterable[Trial],
    key: str,
    *,
    cpu: str,
    compilers: Mapping[str, str],
    metric: str = "cycles",
    board: str | None = None,
) -> Trial | None:
    """The best one for a kernel by these compilers; the first among equals, None if none fits.

    Figures of different boards are not compared: without a `board` it is the one that a trial was
    last made on.
    """
    fitting = [
        t
        for t in trials
        if (t.key, t.cpu, t.metric, dict(t.compilers)) == (key, cpu, metric, dict(compilers))
        and board in (None, t.board)
    ]
    known = [t for t in fitting if t.value is not None and t.board == fitting[-1].board]
    return min(known, key=lambda t: t.value or 0.0, default=None)


def compilers_of(target: Target) -> dict[str, str]:
    """Versions of all that figures depend on.

    Raises:
        BoardError: The target's compiler is not there.
    """
    return {
        "gcc": _gcc(find_compiler(target)),
        "llvm": _llvm(),
        "tvm": version("apache-tvm"),
        "microddsp": __version__,
    }


@cache
def _gcc(compiler: str) -> str:
    return subprocess.run(
        [compiler, "-dumpfullversion"], capture_output=True, text=True, check=True
    ).stdout.strip()


@cache
def _llvm() -> str:
    import tvm

    found = tvm.get_global_func("target.llvm_version_major", allow_missing=True)
    return str(found()) if found else ""


def search_database(folder: Path, key: str) -> ms.database.JSONDatabase:
    """An empty database of MetaSchedule for a kernel, in a folder of its own."""
    from tvm.s_tir import meta_schedule as ms

    where = folder / "metaschedule" / key
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    return ms.database.JSONDatabase(work_dir=str(where))
