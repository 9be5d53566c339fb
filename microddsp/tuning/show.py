"""What a folder of trials says: figures of each kernel, and how they came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from microddsp.errors import RecordError
from microddsp.tuning.database import Trial


@dataclass(frozen=True, slots=True)
class KernelTrials:
    """Trials of one kernel that can be compared: of one CPU, board, metric and set of compilers."""

    kernel: str
    key: str
    cpu: str
    board: str
    metric: str
    compilers: Mapping[str, str]
    trials: tuple[Trial, ...]

    @property
    def default(self) -> float | None:
        return next((t.value for t in self.trials if t.number == 0), None)

    @property
    def best(self) -> Trial | None:
        known = [t for t in self.trials if t.value is not None]
        return min(known, key=lambda t: t.value or 0.0, default=None)

    @property
    def gain(self) -> float | None:
        """How many times the default the best one is."""
        best = self.best
        if best is None or not best.value or self.default is None:
            return None
        return self.default / best.value

    @property
    def curve(self) -> list[float]:
        """The best value so far, after each trial."""
        values: list[float] = []
        for trial in self.trials:
            now = trial.value if trial.value is not None else float("inf")
            values.append(min([now, *values[-1:]]))
        return values

    @property
    def reasons(self) -> dict[str, int]:
        """Why trials failed, and how many."""
        found: dict[str, int] = {}
        for trial in self.trials:
            if trial.reason:
                found[trial.reason] = found.get(trial.reason, 0) + 1
        return found

    def to_json(self) -> dict[str, Any]:
        best = self.best
        return {
            "kernel": self.kernel,
            "key": self.key,
            "cpu": self.cpu,
            "board": self.board,
            "metric": self.metric,
            "compilers": dict(self.compilers),
            "trials": len(self.trials),
            "failed": self.reasons,
            "default": self.default,
            "best": best and asdict(best) | {"trace": None},
            "gain": self.gain,
            "curve": [None if value == float("inf") else value for value in self.curve],
        }


def by_kernel(trials: Sequence[Trial]) -> list[KernelTrials]:
    """Trials that can be compared together, kernels in the order of their first trials."""
    groups: dict[tuple[str, ...], list[Trial]] = {}
    for trial in trials:
        versions = tuple(f"{k}={v}" for k, v in sorted(trial.compilers.items()))
        key = (trial.key, trial.cpu, trial.board, trial.metric, *versions)
        groups.setdefault(key, []).append(trial)
    return [
        KernelTrials(
            t[0].kernel, t[0].key, t[0].cpu, t[0].board, t[0].metric, t[0].compilers, (*t,)
        )
        for t in groups.values()
    ]


def plot_curves(kernels: Sequence[KernelTrials], path: str | Path) -> None:
    """Every kernel's best value against its default, over the trials.

    Raises:
        RecordError: There is nothing to draw, or the picture cannot be written.
    """
    from matplotlib.figure import Figure

    drawn = [k for k in kernels if k.default]
    if not drawn:
        raise RecordError("there are no trials to draw")
    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    axis = figure.add_subplot()
    for kernel in drawn:
        shares = [value / (kernel.default or 1.0) for value in kernel.curve]
        label = f"{kernel.kernel}: {kernel.metric} / {kernel.gain:.2f}"
        axis.step(range(len(shares)), shares, where="post", label=label)
    axis.set_xlabel("trial")
    axis.set_ylabel("best so far, of the default")
    axis.set_ylim(0.0, 1.05)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower left", fontsize="small")
    try:
        figure.savefig(path, metadata={"Date": None} if Path(path).suffix == ".svg" else None)
    except (OSError, ValueError) as error:
        raise RecordError(f"cannot be written: {error}", where=str(path)) from error
