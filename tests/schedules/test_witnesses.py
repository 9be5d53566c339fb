"""A poisoned state is found wherever it is, although few states are looked at."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from microddsp.relax_ops.expression import (
    Expr,
    Step,
    binary,
    constant,
    leaf,
    select,
    substitute,
    trace,
    unary,
)
from microddsp.relax_ops.reference import run
from microddsp.relax_ops.sample_operator import SAMPLE_OPERATORS
from microddsp.schedules.witnesses import witnesses

# Parameters for which every operator is defined and stable enough.
COUNTS = {"sos": 10, "svf": 6}


def joined(*names: str) -> Step:
    """Operators one after another as a single step."""
    signal, states, following, params = leaf("x"), [], [], []
    x = signal
    for name in names:
        operator = SAMPLE_OPERATORS[name]
        step = operator.step(_count(name))
        z = [leaf(f"{name}{i}") for i in range(len(step.states))]
        p = [leaf(f"p{len(params) + i}") for i in range(len(step.params))]
        inputs = [x] * len(step.inputs)
        old = (*step.inputs, *step.states, *step.params)
        known = {id(a): b for a, b in zip(old, (*inputs, *z, *p), strict=True)}
        done = substitute([*step.outputs, *step.next_states], known)
        states += z
        following += done[len(step.outputs) :]
        params += p
        x = abs(done[0]) if step.outputs else x
    return Step((signal,), tuple(params), tuple(states), (x,), tuple(following))


def _count(name: str) -> int:
    for count in (COUNTS.get(name, 1), *range(1, 12)):
        try:
            SAMPLE_OPERATORS[name].step(count)
        except (ValueError, IndexError, TypeError):
            continue
        return count
    raise AssertionError(name)


def chosen(step: Step) -> list[int]:
    return witnesses(step.states, step.next_states, {id(x) for x in step.inputs})


def final(step: Step, samples: int, state: Tensor, bad: tuple[int, float] | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(samples)
    x = torch.randn(1, samples, generator=generator)
    params = 0.1 + 0.4 * torch.rand(max(len(step.params), 1), generator=generator)
    signals = [x.clone() for _ in step.inputs]
    if bad is not None:
        for signal in signals:
            signal[0, bad[0]] = bad[1]
    return run(step, signals, params, state)[-1][0]


CHAINS = [
    ("sos",),
    ("sos", "sos"),
    *((name,) for name in sorted(SAMPLE_OPERATORS) if name != "sos"),
    ("sos", "envelope"),
    ("envelope", "sos"),
]


@pytest.mark.parametrize("names", CHAINS, ids="-".join)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_reaches_a_witness(names: tuple[str, ...], value: float) -> None:
    step = joined(*names)
    seen = chosen(step)
    count = len(step.states)
    for i in range(count):  # a state that went bad, and was not healed, shows
        state = torch.full((1, count), 0.25)
        state[0, i] = value
        after = final(step, count + 1, state)
        assert after.isfinite().all() or not after[seen].isfinite().all(), (i, seen)
    for at in range(4):  # a bad sample shows at once
        after = final(step, 4, torch.full((1, count), 0.25), (at, value))
        assert after.isfinite().all() or not after[seen].isfinite().all(), (at, seen)


def test_one_state_stands_for_a_cascade_and_what_follows_it() -> None:
    assert chosen(joined("sos", "sos", "envelope")) == [8]


def _step(*following: object) -> Step:
    def function(x: list[Expr], p: list[Expr], z: list[Expr]) -> tuple[list[Expr], list[Expr]]:
        return [z[0]], [f(x[0], z) for f in following]  # type: ignore[operator]

    return trace(function, 1, 0, len(following))


def test_a_state_that_only_a_choice_reads_is_looked_at_itself() -> None:
    step = _step(
        lambda x, z: select(z[1] > 0.0, x, 0.5 * z[0]), lambda x, z: z[1] * 0.5 + constant(1.0)
    )
    assert chosen(step) == [0, 1]


def test_a_state_is_no_witness_of_what_a_quotient_or_a_bound_hides() -> None:
    step = _step(lambda x, z: z[0] * 0.5 + x / z[1], lambda x, z: z[1] * 0.5 + 1.0)
    assert chosen(step) == [0, 1]
    step = _step(lambda x, z: z[0] * 0.5 + binary("max", z[1], x), lambda x, z: z[1] * 0.5)
    assert chosen(step) == [0, 1]
    step = _step(lambda x, z: z[0] * 0.5 + unary("tanh", z[1]), lambda x, z: z[1] * 0.5)
    assert chosen(step) == [0, 1]


def test_two_states_that_swap_are_both_looked_at() -> None:
    """Each is bad at every other sample only."""
    step = _step(lambda x, z: 0.5 * z[1], lambda x, z: 0.5 * z[0])
    assert chosen(step) == [0, 1]


def test_a_state_that_forgets_a_bad_sample_is_no_witness_of_it() -> None:
    """The sample is in the second state, and nowhere else until the next sample."""
    step = _step(lambda x, z: 0.5 * z[0] + z[1], lambda x, z: x * 1.0)
    assert chosen(step) == [0, 1]
