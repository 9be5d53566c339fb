"""Any recursion whose step is a formula: the step travels with the call, as text.

The text lists the values of one sample in order, each an operation on earlier ones, so that an
exported model carries its recursions with it and reading one back only parses it:

    1 1; mul z0 p0; add x0 v0 | v1 | v1

is y[n] = z[n] = x[n] + p0 z[n-1], with the numbers of parameters and states in front. A step in
which channels meet has their number behind these two, and an output for each channel that it gives:

    1 1 2; mul p0 z0; add x1 v0; sub x0 v0 | v2 v1 | v1
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from torch import Tensor

from microddsp.errors import CompileError
from microddsp.relax_ops.expression import BINARY, UNARY, Expr, Step, constant, in_order, leaf
from microddsp.relax_ops.registry import (
    RelaxOperator,
    define,
    expect_shape,
    signal_shape,
    signal_type,
)
from microddsp.relax_ops.sample_operator import SampleOperator
from microddsp.relax_ops.torch_library import register_family
from microddsp.relax_ops.torch_operator import apply

if TYPE_CHECKING:
    from tvm import relax

NAME = "recurrence"
_ARGUMENTS = {**dict.fromkeys(UNARY, 1), **dict.fromkeys(BINARY, 2), "select": 3}


def to_text(step: Step) -> str:
    """A step as text; equal steps give equal texts."""
    roots = [*step.outputs, *step.next_states]
    names = {id(x): f"x{i}" for i, x in enumerate(step.inputs)}
    names |= {id(p): f"p{i}" for i, p in enumerate(step.params)}
    names |= {id(z): f"z{i}" for i, z in enumerate(step.states)}
    lines = []
    for expr in in_order(roots):
        if expr.op == "const":
            names[id(expr)] = expr.value.hex()
        elif id(expr) not in names:
            lines.append(" ".join([expr.op, *(names[id(arg)] for arg in expr.args)]))
            names[id(expr)] = f"v{len(lines) - 1}"
    head = f"{len(step.params)} {len(step.states)}"
    if _joint(step):
        head += f" {len(step.inputs)}"
    outputs, following = (
        " ".join(names[id(e)] for e in group) for group in (step.outputs, step.next_states)
    )
    return f"{'; '.join([head, *lines])} | {outputs} | {following}"


@cache
def parse(text: str) -> Step:
    """The step of a text.

    Raises:
        CompileError: It is none.
    """
    try:
        program, outputs, following = text.split("|")
        head, *lines = program.split(";")
        params, states, *channels = (int(n) for n in head.split())
        inputs = channels[0] if channels else 1
        x = tuple(leaf(f"x{i}") for i in range(inputs))
        p = tuple(leaf(f"p{i}") for i in range(params))
        z = tuple(leaf(f"z{i}") for i in range(states))
        known = {e.name: e for e in (*x, *p, *z)}

        def value(name: str) -> Expr:
            return known[name] if name in known else constant(float.fromhex(name))

        for i, line in enumerate(lines):
            op, *names = line.split()
            if len(names) != _ARGUMENTS[op]:
                raise ValueError(line)
            known[f"v{i}"] = Expr(op, tuple(value(name) for name in names))
        results = tuple(value(name) for name in outputs.split())
        nexts = tuple(value(name) for name in following.split())
        step = Step(x, p, z, results, nexts)
        if _joint(step) != bool(channels) or not (x and results):
            raise ValueError(text)
        if len(nexts) != states or not states:
            raise ValueError(text)
    except (ValueError, KeyError) as error:
        raise CompileError(f"no recursion: {text!r} ({error})", where=f"dsp.{NAME}") from error
    return step


def _joint(step: Step) -> bool:
    return (len(step.inputs), len(step.outputs)) != (1, 1)


def is_joint(text: str) -> bool:
    """Whether the channels of a signal meet in the step of a text."""
    return _joint(parse(text))


@cache
def operator(text: str) -> SampleOperator:
    """The sample-wise operator of a text."""
    step = parse(text)
    return SampleOperator(
        NAME,
        lambda _: step,
        1,
        lambda _: (len(step.states),),
        tuple(x.name for x in step.inputs),
        len(step.outputs),
        _joint(step),
    )


register_family(NAME, operator)


def recurrence(x: Tensor, parameters: Tensor, state: Tensor, text: str) -> tuple[Tensor, Tensor]:
    """Run a recursion over the samples of every channel, or of all channels together.

    Args:
        x: (..., channels, samples), float32 or float64.
        parameters: (count,) for all channels or (channels, count); together: (count,).
        state: (..., channels, states); together: (..., 1, states).
        text: The step, see `to_text`.

    Returns:
        The output like `x`, or (..., outputs, samples), and the state after the last sample.

    Raises:
        SignalError: Shapes or types that do not fit together.
        CompileError: The text is no step.
    """
    return apply(operator(text), x, parameters, state, text)


def _type_rule(args: Sequence[relax.Expr]) -> relax.Type:
    from tvm import ir, relax

    x, parameters, state, text = args
    if not isinstance(text, ir.StringImm):
        raise CompileError("the step must be a text", where=f"dsp.{NAME}")
    step = parse(str(text.value))
    channels, samples = signal_shape(NAME, x)
    outputs = channels
    if _joint(step):
        expect_shape(NAME, "x", x, (len(step.inputs), samples), dtype="float32")
        channels, outputs = 1, len(step.outputs)
    count = len(step.params)
    expect_shape(NAME, "parameters", parameters, (count,), (channels, count), dtype="float32")
    expect_shape(NAME, "state", state, (channels, len(step.states)), dtype="float32")
    return relax.TupleType([signal_type(outputs, samples), state.ty])


define(RelaxOperator(NAME, ("x", "parameters", "state", "step"), _type_rule))
