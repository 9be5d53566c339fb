"""The adjoint of a step: right for every operation, with a tape that is as small as promised."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microddsp.relax_ops import reference
from microddsp.relax_ops.adjoint import differentiate, reads_output
from microddsp.relax_ops.expression import Expr, Step, constant, in_order, select, trace, unary
from microddsp.relax_ops.sample_operator import SAMPLE_OPERATORS


def evaluate(roots: Sequence[Expr], values: dict[int, torch.Tensor]) -> list[torch.Tensor]:
    """The value of each root, from those of the leaves."""
    values = dict(values)
    for expr in in_order(roots):
        if id(expr) in values:
            continue
        if expr.op == "const":
            values[id(expr)] = torch.tensor(expr.value, dtype=torch.float64)
        else:
            arguments = [values[id(arg)] for arg in expr.args]
            values[id(expr)] = reference._OPERATIONS[expr.op](*arguments)
    return [values[id(root)] for root in roots]


def assert_adjoint_equals_autograd(step: Step, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)

    def some(count: int) -> list[torch.Tensor]:
        return list((torch.rand(count, generator=generator, dtype=torch.float64) + 0.5).unbind())

    leaves = (*step.inputs, *step.params, *step.states)
    results = (*step.outputs, *step.next_states)
    given = [value.requires_grad_() for value in some(len(leaves))]
    values = {id(leaf): value for leaf, value in zip(leaves, given, strict=True)}
    cotangents = some(len(results))
    loss = sum(r * g for r, g in zip(evaluate(results, values), cotangents, strict=True))
    expected = torch.autograd.grad(loss, given, materialize_grads=True, allow_unused=True)

    adjoint = differentiate(step)
    kept = {id(leaf): values[id(leaf)] for leaf in (*step.inputs, *step.params)}
    for leaf, value in zip(
        (*adjoint.outputs, *adjoint.tape),
        evaluate((*step.outputs, *adjoint.taped), values),
        strict=True,
    ):
        kept[id(leaf)] = value
    for leaf, value in zip(
        (*adjoint.output_cotangents, *adjoint.state_cotangents), cotangents, strict=True
    ):
        kept[id(leaf)] = value
    gradients = (*adjoint.input_gradients, *adjoint.param_gradients, *adjoint.state_gradients)
    torch.testing.assert_close(evaluate(gradients, kept), list(expected))


FORMULAS: dict[str, Callable[[Expr, Expr, Expr], Expr]] = {
    "sum": lambda x, p, z: x + z - p,
    "product": lambda x, p, z: x * p * z,
    "square of a state": lambda x, p, z: z * z,
    "quotient": lambda x, p, z: (x * z) / (p + z),
    "negation": lambda x, p, z: -(x * z),
    "absolute value, left": lambda x, p, z: abs(x - 3.0 * z),
    "absolute value, right": lambda x, p, z: abs(x + z),
    "square root": lambda x, p, z: unary("sqrt", x * z),
    "exponential": lambda x, p, z: unary("exp", p * z),
    "logarithm": lambda x, p, z: unary("log", p * z),
    "sine": lambda x, p, z: unary("sin", p * z),
    "cosine": lambda x, p, z: unary("cos", p * z),
    "tangent": lambda x, p, z: unary("tan", p * z * 0.3),
    "whole part": lambda x, p, z: unary("trunc", p * z) * x,
    "hyperbolic tangent": lambda x, p, z: unary("tanh", p * z),
    "choice": lambda x, p, z: select(x * z > 0.6, p * z, z * z),
    "choice, other way": lambda x, p, z: select(x * z < 0.6, p * z, z * z),
    "nothing": lambda x, p, z: constant(2.0),
}


@pytest.mark.parametrize("formula", FORMULAS)
def test_every_operation_is_differentiated(formula: str) -> None:
    def step(x, p, z):
        value = FORMULAS[formula](x[0], p[0], z[0])
        return [value * 2.0], [value * p[0]]

    assert_adjoint_equals_autograd(trace(step, 1, 1, 1))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("sos", 15),
        ("svf", 12),
        ("first_order", 3),
        ("oscillator", 4),
        ("noise", 1),
        ("player", 5),
        ("peaks", 4),
        ("swept", 7),
        ("swept_quality", 8),
    ],
)
def test_operators_are_differentiated(name: str, count: int) -> None:
    assert_adjoint_equals_autograd(SAMPLE_OPERATORS[name].step(count))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 99), st.integers(0, 99)), max_size=14))
def test_any_composition_is_differentiated(choices: list[tuple[int, int, int]]) -> None:
    def step(x, p, z):
        values = [*x, *p, *z]
        for kind, i, j in choices:
            a, b = values[i % len(values)], values[j % len(values)]
            tame = unary("tanh", a)
            values.append((a + b, tame * b, tame - b, tame, select(a > b, tame, b))[kind])
        return [values[-1]], [values[len(values) // 2], values[-2]]

    assert_adjoint_equals_autograd(trace(step, 1, 2, 2))


@pytest.mark.parametrize("sections", [1, 2, 4, 9])
def test_a_cascade_stores_its_inner_section_outputs_only(sections: int) -> None:
    step = SAMPLE_OPERATORS["sos"].step(5 * sections)
    adjoint = differentiate(step)
    inner = []
    value = step.outputs[0]
    while value.op != "leaf":  # y = value * b0 + z, so the section before is two steps down
        inner.append(value)
        value = value.args[0].args[0]
    assert [id(v) for v in adjoint.taped] == [id(v) for v in reversed(inner[1:])]
    assert reads_output(adjoint)


def test_a_first_order_section_stores_nothing() -> None:
    assert differentiate(SAMPLE_OPERATORS["first_order"].step(3)).tape == ()


def test_an_envelope_stores_the_difference_and_leaves_its_output_to_the_user() -> None:
    adjoint = differentiate(SAMPLE_OPERATORS["envelope"].step(2))
    assert [expr.op for expr in adjoint.taped] == ["sub"]
    assert not reads_output(adjoint)


def test_no_gradient_goes_through_a_condition() -> None:
    step = trace(lambda x, p, z: ([select(x[0] > p[0], z[0], 1.0)], [z[0]]), 1, 1, 1)
    adjoint = differentiate(step)
    assert [repr(g) for g in (*adjoint.input_gradients, *adjoint.param_gradients)] == ["0.0"] * 2
