"""The report of a model: collected once, shown as one HTML page or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microddsp.budget import LoadLimit, check_budget, read_limits
from microddsp.errors import ArchiveError
from microddsp.reporting.collect import collect

if TYPE_CHECKING:
    import numpy as np
    import torch

    from microddsp.micro.boards import Board
    from microddsp.micro.package.model import CompiledModel

    Array = np.ndarray | torch.Tensor


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of a model. `data` is plain; `docs/report.md` names its fields."""

    data: dict[str, Any]
    model: CompiledModel = field(repr=False)
    limits: Mapping[str, int | LoadLimit] = field(default_factory=dict)

    def json(self) -> str:
        """The content of the page for programs."""
        return json.dumps(self.data, indent=2, allow_nan=False) + "\n"

    def html(self) -> str:
        """One page that needs nothing else: no script, no font, no network."""
        from microddsp.reporting.page import render

        return render(self.data)

    def save(self, path: str | Path) -> None:
        """Write the page.

        Raises:
            ArchiveError: The file cannot be written.
        """
        _write(path, self.html())

    def save_json(self, path: str | Path) -> None:
        """Write the content for programs.

        Raises:
            ArchiveError: The file cannot be written.
        """
        _write(path, self.json())

    def check_budget(self) -> None:
        """Refuse what is larger than the budget, as `compile` does.

        Raises:
            BudgetError: With a table of what takes the room.
        """
        check_budget(self.model, self.limits)


def _write(path: str | Path, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ArchiveError(f"cannot write: {error.strerror}", where=str(path)) from error


def report(
    model: CompiledModel,
    pipeline: torch.nn.Module | None = None,
    x: Array | Sequence[Array] | None = None,
    board: str | Board | None = None,
    *,
    budget: Mapping[str, int | str] | None = None,
) -> Report:
    """Collect what is known of a compiled model.

    Args:
        model: What `compile` or `load` gave.
        pipeline: What was compiled: for errors, latency and frequency responses.
        x: A signal (channels, samples) as the device takes it, whole blocks, or one for each
            input; some blocks of noise otherwise.
        board: Where to measure time and stack; None measures neither.
        budget: Limits as for `compile`. They are shown here; `check_budget` of the report refuses.

    Raises:
        ParameterError: A limit makes no sense.
        SignalError: The signal does not fit the model.
        VerificationError: The pipeline is not what was compiled.
        BoardError: The board is unknown, has another processor, or a tool is missing.
    """
    limits = read_limits(budget)
    signals = None if x is None else tuple(x) if isinstance(x, tuple | list) else (x,)
    return Report(collect(model, pipeline, signals, board, limits), model, limits)
