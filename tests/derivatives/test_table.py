"""Every line of the table of derivatives, held to what it says."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import microddsp
from microddsp.cli.derivatives import DERIVATIVES, ZERO, DerivativeLine
from microddsp.errors import CompileError

_HERE = Path(__file__).resolve().parent
_SPEC = importlib.util.spec_from_file_location("derivative_rows", _HERE / "rows.py")
assert _SPEC and _SPEC.loader
rows = importlib.util.module_from_spec(_SPEC)
sys.modules["derivative_rows"] = rows
_SPEC.loader.exec_module(rows)

LINES = {line.name: line for line in DERIVATIVES}


def numbers(case, seed: int = 0) -> Tensor:
    """(1, samples) in the domain of the function; float32 numbers."""
    share = torch.rand(1, rows.SAMPLES, generator=torch.Generator().manual_seed(seed))
    return case.low + (case.high - case.low) * share


class Problem:
    """A smooth number of the output, as a function of the input and the parameters."""

    def __init__(self, name: str) -> None:
        self.case = rows.CASES[name]
        self.module = self.case.make().double()
        self.names = [n for n, _ in self.module.named_parameters()]
        self.point = [numbers(self.case).double(), *self.module.parameters()]
        self.point = [value.detach() for value in self.point]
        generator = torch.Generator().manual_seed(1)
        self.direction = [
            torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in self.point
        ]

    def __call__(self, *point: Tensor) -> Tensor:
        values = dict(zip(self.names, point[1:], strict=True))
        y = torch.func.functional_call(self.module, values, (point[0],))
        weights = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).reshape(y.shape)
        return (y * weights + 0.1 * y.square()).sum()

    def moved(self, share: float) -> list[Tensor]:
        return [v + share * d for v, d in zip(self.point, self.direction, strict=True)]

    def slope(self, point: list[Tensor], *, graph: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Reverse mode along the direction, and where it was taken."""
        leaves = [value.clone().requires_grad_() for value in point]
        loss = self(*leaves)
        if not loss.requires_grad:
            return torch.zeros((), dtype=torch.float64), leaves
        gradients = torch.autograd.grad(
            loss, leaves, create_graph=graph, allow_unused=True, materialize_grads=True
        )
        return sum((g * d).sum() for g, d in zip(gradients, self.direction, strict=True)), leaves


@pytest.fixture(scope="module")
def on_the_device() -> dict[str, np.ndarray]:
    """What the compiled C makes of each line; those of one kind are compiled together."""
    outputs: dict[str, np.ndarray] = {}
    names = [line.name for line in DERIVATIVES if line.compiles]

    def kind(name: str) -> tuple[float, float, bool]:
        case = rows.CASES[name]
        return case.low, case.high, isinstance(case.make(), rows.Formula)

    for each in sorted({kind(name) for name in names}):
        group = [name for name in names if kind(name) == each]

        class Together(torch.nn.Module):
            def __init__(self, group=group) -> None:
                super().__init__()
                self.parts = torch.nn.ModuleList(rows.CASES[name].make() for name in group)

            def forward(self, x: Tensor) -> dict[str, Tensor]:
                return {f"out{i}": part(x) for i, part in enumerate(self.parts)}

        x = numbers(rows.CASES[group[0]])
        model = microddsp.compile(Together().eval(), x, target="cortex-m4f", name="rows")
        found = model.run(x.numpy())
        outputs |= {name: np.asarray(found[f"out{i}"]) for i, name in enumerate(group)}
    return outputs


def test_the_table_and_the_cases_are_the_same() -> None:
    assert list(LINES) == list(rows.CASES)


@pytest.mark.parametrize("line", DERIVATIVES, ids=lambda line: line.name)
def test_value_and_derivatives(line: DerivativeLine) -> None:
    problem = Problem(line.name)
    with torch.no_grad():
        value = problem.module(problem.point[0]).numpy()
    np.testing.assert_allclose(
        value, problem.case.oracle(problem.point[0].numpy()), rtol=1e-6, atol=2e-7
    )
    reverse, leaves = problem.slope(problem.point, graph=True)
    with torch.no_grad():
        up, down = problem(*problem.moved(1e-6)), problem(*problem.moved(-1e-6))
    torch.testing.assert_close(reverse.detach(), (up - down) / 2e-6, rtol=1e-6, atol=1e-6)
    assert (reverse == 0) == (line.reverse == ZERO)
    if line.forward:
        forward = torch.func.jvp(problem, tuple(problem.point), tuple(problem.direction))[1]
        torch.testing.assert_close(forward, reverse.detach(), rtol=1e-9, atol=1e-9)
    if line.second:
        product = torch.zeros((), dtype=torch.float64)
        if reverse.requires_grad:
            seconds = torch.autograd.grad(
                reverse, leaves, allow_unused=True, materialize_grads=True
            )
            product = sum((s * d).sum() for s, d in zip(seconds, problem.direction, strict=True))
        slopes = [problem.slope(problem.moved(share))[0] for share in (1e-6, -1e-6)]
        expected = (slopes[0] - slopes[1]) / 2e-6
        torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "line", [line for line in DERIVATIVES if line.compiles], ids=lambda line: line.name
)
def test_it_runs_as_c(line: DerivativeLine, on_the_device: dict[str, np.ndarray]) -> None:
    case = rows.CASES[line.name]
    with torch.no_grad():
        expected = case.make()(numbers(case)).numpy()
    np.testing.assert_allclose(on_the_device[line.name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "line", [line for line in DERIVATIVES if not line.compiles], ids=lambda line: line.name
)
def test_what_does_not_compile_is_refused(line: DerivativeLine) -> None:
    case = rows.CASES[line.name]
    with pytest.raises(CompileError):
        microddsp.compile(case.make().eval(), numbers(case), target="cortex-m4f", name="row")


def test_kinks_have_the_derivatives_that_the_table_says() -> None:
    def slope(function, *at: float) -> list[float]:
        leaves = [torch.tensor(v, requires_grad=True) for v in at]
        return [g.item() for g in torch.autograd.grad(function(*leaves), leaves)]

    assert slope(torch.abs, 0.0) == [0.0]
    assert slope(torch.minimum, 1.0, 1.0) == slope(torch.maximum, 1.0, 1.0) == [0.5, 0.5]
    assert slope(torch.sqrt, 0.0) == [float("inf")]


def test_a_foreign_function_without_a_tangent_rule_raises_in_forward_mode() -> None:
    class Foreign(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x.detach() ** 3

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, g):
            return g * 3 * ctx.saved_tensors[0] ** 2

    with pytest.raises(RuntimeError, match="jvp"):
        torch.func.jvp(Foreign.apply, (torch.ones(3),), (torch.ones(3),))


def test_the_documentation_shows_the_table() -> None:
    text = (_HERE.parents[1] / "docs" / "derivatives.md").read_text()
    shown = [
        [cell.strip().replace("\\|", "|").strip("`") for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        for row in re.findall(r"^\|.*\|$", text, re.MULTILINE)[2:]
    ]
    mark = {True: "yes", False: "no"}
    for cells, line in zip(shown, DERIVATIVES, strict=True):
        flags = [mark[flag] for flag in (line.forward, line.second, line.compiles)]
        assert cells == [line.name, line.reverse, *flags, line.note]
