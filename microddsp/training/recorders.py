"""Who is told about each step: a CSV file, TensorBoard, a line on the terminal."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from microddsp.errors import MicroddspError

if TYPE_CHECKING:
    from rich.progress import Progress


@dataclass(frozen=True, slots=True)
class Row:
    """One step: its number from 0, the loss before it, the learning rate, and the learned values
    in physical units after it."""

    step: int
    loss: float
    learning_rate: float
    values: Mapping[str, float]


class Recorder(Protocol):
    """Gets every row, between `open` and `close`."""

    def open(self, names: list[str], first: int, steps: int) -> None:
        """`names` of the learned values, the first step (not 0 after a resume), all steps."""

    def write(self, row: Row) -> None: ...

    def close(self) -> None: ...


class CsvRecorder:
    """A CSV file: step, loss, learning_rate, then each learned value.

    A resumed training goes on in the same file; rows behind the checkpoint are replaced.

    Raises:
        MicroddspError: The file cannot be written, or is that of another training.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: IO[str] | None = None

    def open(self, names: list[str], first: int, steps: int) -> None:
        header = ["step", "loss", "learning_rate", *names]
        try:
            kept = self._rows_before(first, header) if first and self.path.exists() else []
            self._file = self.path.open("w", newline="")
        except OSError as error:
            raise MicroddspError(
                f"cannot be written: {error.strerror}", where=str(self.path)
            ) from error
        self._writer = csv.writer(self._file)
        self._writer.writerow(header)
        self._writer.writerows(kept)

    def _rows_before(self, first: int, header: list[str]) -> list[list[str]]:
        with self.path.open(newline="") as file:
            rows = list(csv.reader(file))
        if not rows or rows[0] != header:
            raise MicroddspError("is the CSV file of another training", where=str(self.path))
        return [row for row in rows[1:] if len(row) == len(header) and int(row[0]) < first]

    def write(self, row: Row) -> None:
        assert self._file is not None
        # repr: what is read back is the very number
        self._writer.writerow(
            [row.step, repr(row.loss), repr(row.learning_rate), *map(repr, row.values.values())]
        )
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class TensorBoardRecorder:
    """Scalars for TensorBoard in a folder.

    Raises:
        MicroddspError: The package `tensorboard` is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MicroddspError(
                "TensorBoard is not installed", hint="pip install tensorboard"
            ) from error
        self._writer: Any = SummaryWriter(str(folder))

    def open(self, names: list[str], first: int, steps: int) -> None:
        pass

    def write(self, row: Row) -> None:
        self._writer.add_scalar("loss", row.loss, row.step)
        self._writer.add_scalar("learning_rate", row.learning_rate, row.step)
        for name, value in row.values.items():
            self._writer.add_scalar(f"learned/{name}", value, row.step)

    def close(self) -> None:
        self._writer.close()


class ProgressRecorder:
    """A line on the terminal: how far, the loss and the first learned values."""

    MOST = 6

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def open(self, names: list[str], first: int, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            BarColumn(20),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
        )
        self._progress.start()
        self._task = self._progress.add_task("", total=steps, completed=first)

    def write(self, row: Row) -> None:
        assert self._progress is not None
        shown = list(row.values.items())[: self.MOST]
        rest = " ..." if len(row.values) > self.MOST else ""
        text = "  ".join(f"{name} {value:.4g}" for name, value in shown)
        self._progress.update(
            self._task, advance=1, description=f"loss {row.loss:.4g}  {text}{rest}"
        )

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
