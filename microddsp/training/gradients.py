"""Are gradients right? Reverse mode, forward mode and finite differences side by side."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from microddsp.dsp.event_counter import EventCounter
from microddsp.errors import MicroddspError, ParameterError, SignalError, VerificationError

# Gradients below this share of the largest one are as good as zero: no relative error is told.
NEAR_ZERO = 1e-6
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class GradientRow:
    """One element of one parameter, as it is stored (a logit, a logarithm).

    `relative_error` is the largest distance between the three, over the largest of them; None
    where all of them are near zero.
    """

    name: str
    value: float
    reverse: float
    forward: float
    finite_difference: float
    delta: float
    relative_error: float | None
    right: bool


@dataclass(frozen=True, slots=True)
class GradientReport:
    """Every element; mean and standard deviation are over `delta`, reverse mode minus finite
    difference. `surrogate` names counters that were verified by their smooth density."""

    rows: tuple[GradientRow, ...]
    epsilon: float
    tolerance: float
    mean_delta: float
    deviation: float
    surrogate: tuple[str, ...]

    @property
    def wrong(self) -> tuple[str, ...]:
        """Elements whose gradients disagree."""
        return tuple(row.name for row in self.rows if not row.right)

    def raise_if_wrong(self) -> None:
        """
        Raises:
            VerificationError: Names the elements whose gradients disagree.
        """
        if self.wrong:
            raise VerificationError(
                f"gradients of {', '.join(self.wrong)} disagree by more than {self.tolerance:g}",
                hint="a jump or kink of the model within epsilon does this too: try a smaller one",
            )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "wrong": self.wrong}

    def write_csv(self, path: str | Path) -> None:
        """One line an element.

        Raises:
            MicroddspError: The file cannot be written.
        """
        try:
            with Path(path).open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(GradientRow.__dataclass_fields__)
                for row in self.rows:
                    writer.writerow(["" if v is None else v for v in asdict(row).values()])
        except OSError as error:
            raise MicroddspError(f"cannot be written: {error.strerror}", where=str(path)) from error


def verify_gradients(
    module: torch.nn.Module,
    x: Tensor,
    objective: Callable[[Tensor], Tensor] | None = None,
    *,
    epsilon: float = 1e-3,
    tolerance: float = TOLERANCE,
) -> GradientReport:
    """Compare the gradients of every learned parameter with central finite differences.

    All of it in float64 on a copy of the module, so that differences show errors and no rounding.
    An exact event counter is flat almost everywhere: it is replaced by its smooth density.

    Args:
        module: Is not changed.
        x: (..., channels, samples); some hundred samples are enough.
        objective: A number from the output; by default a smooth one that sees every sample.
        epsilon: Half of the step of the difference, in stored units.
        tolerance: Largest relative error. A central difference is off by about epsilon squared.

    Raises:
        ParameterError: Nothing is learned, or epsilon is not positive.
        SignalError: The output does not depend on the parameters.
    """
    if not 0 < epsilon < float("inf") or not tolerance > 0:
        raise ParameterError(f"epsilon is {epsilon}, tolerance is {tolerance}")
    exact = copy.deepcopy(module).double()
    learned = {n: p for n, p in exact.named_parameters() if p.requires_grad}
    if not learned:
        raise ParameterError("no parameter requires a gradient", where=type(module).__name__)
    x = x.double()
    with _smooth(exact) as surrogate:
        measure = objective or _everything(exact, x)

        def loss(values: dict[str, Tensor]) -> Tensor:
            return measure(torch.func.functional_call(exact, values, (x,)))

        reverse = _reverse(loss, learned)
        forward = _forward(loss, learned)
        difference = _differences(loss, learned, epsilon)
    return _report(learned, (reverse, forward, difference), epsilon, tolerance, surrogate)


@contextmanager
def _smooth(module: torch.nn.Module) -> Iterator[tuple[str, ...]]:
    with ExitStack() as stack:
        names = []
        for name, inner in module.named_modules():
            if isinstance(inner, EventCounter):
                stack.enter_context(inner.density())
                names.append(name or type(inner).__name__)
        yield tuple(names)


def _everything(module: torch.nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """A mean of the output with weights that differ, plus its square."""
    with torch.no_grad():
        y = module(x)
    if not isinstance(y, Tensor):
        raise SignalError(
            f"the output is {type(y).__name__}", hint="give an objective that makes a number of it"
        )
    weights = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).reshape(y.shape)
    return lambda output: (output * weights + output.square()).mean()


def _reverse(
    loss: Callable[[dict[str, Tensor]], Tensor], learned: dict[str, torch.nn.Parameter]
) -> Tensor:
    value = loss(dict(learned))
    if not value.requires_grad:
        raise SignalError("the output depends on no learned parameter")
    gradients = torch.autograd.grad(
        value, list(learned.values()), allow_unused=True, materialize_grads=True
    )
    return torch.cat([g.flatten() for g in gradients])


def _elements(learned: dict[str, torch.nn.Parameter]) -> Iterator[tuple[str, int]]:
    for name, parameter in learned.items():
        for index in range(parameter.numel()):
            yield name, index


def _along(learned: dict[str, torch.nn.Parameter], name: str, index: int) -> Tensor:
    """The unit tangent of one element."""
    tangent = torch.zeros_like(learned[name])
    tangent.view(-1)[index] = 1.0
    return tangent


def _forward(
    loss: Callable[[dict[str, Tensor]], Tensor], learned: dict[str, torch.nn.Parameter]
) -> Tensor:
    values = {name: p.detach() for name, p in learned.items()}
    slopes = []
    for name, index in _elements(learned):
        tangents = {n: torch.zeros_like(v) for n, v in values.items()}
        tangents[name] = _along(learned, name, index).detach()
        slopes.append(torch.func.jvp(loss, (values,), (tangents,))[1])
    return torch.stack(slopes)


@torch.no_grad()
def _differences(
    loss: Callable[[dict[str, Tensor]], Tensor],
    learned: dict[str, torch.nn.Parameter],
    epsilon: float,
) -> Tensor:
    slopes = []
    for name, index in _elements(learned):
        step = epsilon * _along(learned, name, index)
        up, down = (loss({**learned, name: learned[name] + sign * step}) for sign in (1, -1))
        slopes.append((up - down) / (2 * epsilon))
    return torch.stack(slopes)


def _report(
    learned: dict[str, torch.nn.Parameter],
    found: tuple[Tensor, Tensor, Tensor],
    epsilon: float,
    tolerance: float,
    surrogate: tuple[str, ...],
) -> GradientReport:
    table = torch.stack(found)
    floor = NEAR_ZERO * table.abs().max()
    rows = []
    for (name, index), slopes in zip(_elements(learned), table.T, strict=True):
        parameter = learned[name]
        spread, height = float(slopes.max() - slopes.min()), float(slopes.abs().max())
        relative = spread / height if height > floor else None
        reverse, forward, difference = slopes.tolist()
        finite = bool(torch.isfinite(slopes).all())
        rows.append(
            GradientRow(
                name if parameter.dim() == 0 else f"{name}[{index}]",
                float(parameter.detach().view(-1)[index]),
                reverse,
                forward,
                difference,
                abs(reverse - difference),
                relative,
                finite and (relative is None or relative <= tolerance),
            )
        )
    delta = table[0] - table[2]
    return GradientReport(
        tuple(rows),
        epsilon,
        tolerance,
        float(delta.mean()),
        float(delta.std(correction=0)),
        surrogate,
    )
