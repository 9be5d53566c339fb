"""A training between two steps: parameters, optimiser, random state, and what is known good."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from microddsp.dsp.input_rate import input_rate_hz
from microddsp.errors import MicroddspError, ParameterError, SignalError
from microddsp.training.checkpoint import read_checkpoint, save_checkpoint
from microddsp.training.processes import B, Processes, processes
from microddsp.training.readings import Readings
from microddsp.training.recorders import Row

Objective = Callable[[torch.nn.Module, B], Tensor]
OptimizerOf = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]


class Stepper(Generic[B]):
    """A training between two steps."""

    def __init__(
        self,
        module: torch.nn.Module,
        objective: Objective[B],
        optimizer: OptimizerOf,
        schedule: Callable[[torch.optim.Optimizer], LRScheduler] | None,
        clip_norm: float | None,
        generator: torch.Generator,
        read: bool,
    ) -> None:
        self.module, self.objective, self.clip_norm = module, objective, clip_norm
        self.generator = generator
        self.learned = {n: p for n, p in module.named_parameters() if p.requires_grad}
        if not self.learned:
            raise ParameterError(
                "no parameter requires a gradient: there is nothing to learn",
                where=type(module).__name__,
            )
        input_rate_hz(module)  # refuses rates at odds
        self.processes: Processes = processes()
        self.processes.same_start(module)
        self.optimizer = optimizer(list(self.learned.values()))
        self.schedule = None if schedule is None else schedule(self.optimizer)
        self.readings = Readings(module) if read else None
        self.names = self.readings.names if self.readings else []
        self.rows: list[Row] = []
        self.good: dict[str, Tensor] = {}
        # a checkpoint to be, until its parameters have shown that they are good
        self.kept: tuple[str | Path, dict[str, Any]] | None = None

    def step(self, batch: B) -> Row:
        """One optimiser step."""
        part, share = self.processes.share(batch)
        losses: list[float] = []

        def closure() -> float:
            losses.append(self.gradients(part, share))
            if len(losses) == 1:
                self.are_good()
            return losses[-1]

        rate = float(self.optimizer.param_groups[0]["lr"])
        with self.undone_if_bad():
            self.optimizer.step(closure)
            for name, parameter in self.learned.items():
                _finite(parameter, name, "the parameter")
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(losses[0])
        elif self.schedule is not None:
            self.schedule.step()
        values = self.readings.read() if self.readings else {}
        self.rows.append(Row(len(self.rows), losses[0], rate, values))
        return self.rows[-1]

    def check(self, batch: B) -> None:
        """See whether the last parameters of all are good, and write their checkpoint."""
        with self.undone_if_bad():
            self.gradients(*self.processes.share(batch))
            self.are_good()

    def are_good(self) -> None:
        """Loss and gradients were finite with these parameters."""
        self.good = {name: p.detach().clone() for name, p in self.learned.items()}
        if self.kept is not None:
            path, state = self.kept
            if self.processes.rank == 0:
                save_checkpoint(path, self.module, state)
            self.kept = None

    @contextmanager
    def undone_if_bad(self) -> Iterator[None]:
        """Go back to the last good parameters if something inside is not finite."""
        try:
            yield
        except MicroddspError:
            with torch.no_grad():
                for name, parameter in self.learned.items():
                    parameter.copy_(self.good.get(name, parameter))
            raise

    def gradients(self, part: B, share: float) -> float:
        """The loss, its gradients in the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.objective(self.module, part)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            what = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ParameterError(f"the objective gives a tensor with one number, got {what}")
        if not loss.requires_grad:
            raise ParameterError("the objective does not depend on any learned parameter")
        loss.backward()
        value = self.processes.average(list(self.learned.values()), loss, share)
        for name, parameter in self.learned.items():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                _signals_are_finite(part)
                _finite(parameter.grad, name, "a gradient")
        if not math.isfinite(value):
            _signals_are_finite(part)
            raise MicroddspError(
                f"the loss became {value}; training stopped", where=type(self.module).__name__
            )
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(self.learned.values()), self.clip_norm)
        return value

    def keep(self, path: str | Path) -> None:
        """Remember everything for a checkpoint."""
        table = [[row.loss, row.learning_rate, *row.values.values()] for row in self.rows]
        state: dict[str, Any] = {
            "parameters": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "optimizer_class": type(self.optimizer).__name__,
            "schedule": self.schedule.state_dict() if self.schedule else None,
            "draws": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "names": self.names,
            "rows": torch.tensor(table, dtype=torch.float64),
        }
        if hasattr(self.objective, "state_dict"):
            state["objective"] = self.objective.state_dict()
        self.kept = path, copy.deepcopy(state)

    def resume(self, path: str | Path) -> None:
        """Go on from a checkpoint; nothing changes if it is none of this training.

        Raises:
            MicroddspError: Says what differs.
        """
        saved = read_checkpoint(path, self.module)
        kind = type(self.optimizer).__name__
        if saved["optimizer_class"] != kind or (saved["schedule"] is None) != (
            self.schedule is None
        ):
            raise MicroddspError(
                f"was trained by {saved['optimizer_class']}"
                f"{' with a schedule' if saved['schedule'] else ''}, not by {kind}"
                f"{' with a schedule' if self.schedule else ''}",
                where=str(path),
            )
        if saved["names"] != self.names:
            raise MicroddspError("was trained with other parameters learned", where=str(path))
        if ("objective" in saved) != hasattr(self.objective, "load_state_dict"):
            what = "keeps no state" if "objective" in saved else "has a state of its own"
            raise MicroddspError(
                f"was trained with another objective: this one {what}", where=str(path)
            )
        try:
            self.optimizer.load_state_dict(saved["optimizer"])
        except ValueError as error:  # groups of other sizes
            raise MicroddspError(f"does not fit the optimiser: {error}", where=str(path)) from error
        self.module.load_state_dict(saved["parameters"])
        if self.schedule is not None:
            self.schedule.load_state_dict(saved["schedule"])
        if hasattr(self.objective, "load_state_dict"):
            self.objective.load_state_dict(saved["objective"])
        self.generator.set_state(saved["draws"])
        torch.set_rng_state(saved["random"])
        self.rows = [
            Row(step, numbers[0], numbers[1], dict(zip(self.names, numbers[2:], strict=True)))
            for step, numbers in enumerate(saved["rows"].tolist())
        ]


def _signals_are_finite(batch: object) -> None:
    """The cause may lie in the data."""
    signals = getattr(batch, "signals", None)
    if isinstance(signals, Tensor) and not bool(torch.isfinite(signals).all()):
        raise SignalError("signals of a batch are NaN or infinite; training stopped")


def _finite(value: Tensor, name: str, what: str) -> None:
    if not bool(torch.isfinite(value).all()):
        raise MicroddspError(
            f"{what} became NaN or infinite; training stopped",
            where=name,
            hint="a lower learning rate, or a start further from the edge of its range",
        )
