"""The loop over samples of a group of operators: each adds its expressions to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence

import numpy as np
import tvm
from tvm import relax

from microddsp.relax_ops.choices import Made, asking, choose
from microddsp.relax_ops.expression import Expr, binary, is_constant, select, unary
from microddsp.relax_ops.recurrence import NAME as RECURRENCE
from microddsp.relax_ops.recurrence import operator as recurrence_of
from microddsp.relax_ops.sample_operator import SAMPLE_OPERATORS, SampleOperator
from microddsp.relax_ops.scalar_rules import clipped, is_truth, number
from microddsp.relax_ops.swept_delay import NAME as SWEPT_DELAY
from microddsp.schedules.filter_form import USUAL_FORMS, in_form, precise_forms, split_gain
from microddsp.schedules.graph import operator_name, static_shape
from microddsp.schedules.loop_memory import Tensor, constants
from microddsp.schedules.sample_groups import DECIMATE, SAMPLE_CALLS, SUM, Group, joint_outputs
from microddsp.schedules.sample_loop import LoopShape, SampleLoop

_UNARY: dict[str, Callable[[Expr], Expr]] = {
    "relax.abs": abs,
    "relax.negative": lambda x: -x,
    "relax.sqrt": lambda x: unary("sqrt", x),
    "relax.exp": lambda x: unary("exp", x),
    "relax.log": lambda x: unary("log", x),
    "relax.sin": lambda x: unary("sin", x),
    "relax.cos": lambda x: unary("cos", x),
    "relax.tanh": lambda x: unary("tanh", x),
    "relax.square": lambda x: x * x,
    # a NaN is neither below zero nor hidden: torch keeps it
    "relax.nn.relu": lambda x: select(x < 0.0, 0.0, x),
}
_BINARY: dict[str, Callable[[Expr, Expr], Expr]] = {
    "relax.add": lambda a, b: a + b,
    "relax.subtract": lambda a, b: a - b,
    "relax.multiply": lambda a, b: a * b,
    "relax.divide": lambda a, b: a / b,
    "relax.maximum": lambda a, b: binary("max", a, b),
    "relax.minimum": lambda a, b: binary("min", a, b),
    "relax.greater": lambda a, b: a > b,
    "relax.greater_equal": lambda a, b: binary("ge", a, b),
    "relax.less": lambda a, b: a < b,
    "relax.less_equal": lambda a, b: binary("le", a, b),
    **dict.fromkeys(
        ("relax.logical_and", "relax.bitwise_and"),
        lambda a, b: binary("and", _truth(a), _truth(b)),
    ),
    **dict.fromkeys(
        ("relax.logical_or", "relax.bitwise_or"),
        lambda a, b: binary("or", _truth(a), _truth(b)),
    ),
}


def make_loop(
    g: Group,
    name: str,
    wanted: Sequence[relax.Var],
    items: Mapping[relax.Var, tuple[relax.Var, int]],
    value_of: Callable[[relax.Expr], relax.Expr],
    loops: LoopShape,
    free: Container[relax.Var],
) -> Made:
    """The function of one group, its outputs in the order of the wanted variables. States of the
    `free` filters are nobody else's: their form may be another."""
    made = _GroupLoop(g, items, value_of, free)
    for b in g.bindings:
        made.add(b.var, b.value)
    outputs = [made.result(var) for var in wanted]
    function = made.loop.build(name, outputs, loops)
    return Made(function, tuple(made.arguments), frozenset(made.changed))


class _GroupLoop:
    """`signals` are expressions of a sample, `tensors` are memory; both by variable and field."""

    def __init__(
        self,
        g: Group,
        items: Mapping[relax.Var, tuple[relax.Var, int]],
        value_of: Callable[[relax.Expr], relax.Expr],
        free: Container[relax.Var],
    ) -> None:
        self.items, self.value_of, self.free = items, value_of, free
        self.loop = SampleLoop(*g.shape)
        self.signals: dict[tuple[relax.Var, int], Expr] = {}
        self.tensors: dict[tuple[relax.Var, int], Tensor] = {}
        self.arguments: list[relax.Expr] = []
        self.changed: list[int] = []  # states of filters of another form than the usual one
        self.forms = 0

    def result(self, var: relax.Var) -> Tensor:
        key = self._key(var)
        if key in self.tensors:
            return self.tensors[key]
        return self.loop.store(number(self.signals[key]))

    def add(self, var: relax.Var, call: relax.Call) -> None:
        kind, signal = operator_name(call), self._signal
        if kind == "dsp.decode_input":
            raw, scale, offset, interleaved = call.args
            value = signal(raw, interleaved=bool(int(interleaved)))
            self.signals[var, -1] = (value - signal(offset)) * signal(scale)
        elif kind == "dsp.event_counter":
            self._add_counter(var, call)
        elif kind == f"dsp.{SWEPT_DELAY}":
            x, delay, line, place = call.args
            delayed, ring, after = self.loop.delay(
                signal(x), signal(delay), self._tensor(line), self._tensor(place)
            )
            self.signals[var, 0] = delayed
            self.tensors[var, 1], self.tensors[var, 2] = ring, after
        elif kind in SAMPLE_CALLS:
            self._add_operator(var, call, kind)
        elif kind == DECIMATE:
            x, factor = call.args
            self.tensors[var, -1] = self.loop.store(signal(x), every=int(factor))
        elif kind == SUM:
            self.tensors[var, -1] = self.loop.store_sum(signal(call.args[0]))
        else:
            self.signals[var, -1] = self._scalar(var, call, kind)

    def _scalar(self, var: relax.Var, call: relax.Call, kind: str) -> Expr:
        """What an operator without memory gives for a sample."""
        if kind == "relax.clip":
            x, *bounds = call.args
            known = [None if math.isinf(v) else v for v in map(float, bounds)]
            return clipped(self._signal(x), *known)
        if kind == "relax.broadcast_to":
            return self._signal(call.args[0])
        given = [self._signal(arg) for arg in call.args]
        if kind == "relax.astype":
            return _truth(given[0]) if str(var.ty.dtype) == "bool" else number(given[0])
        if kind == "relax.where":
            condition, yes, no = given
            return select(_truth(condition), number(yes), number(no))
        return _UNARY[kind](*given) if len(given) == 1 else _BINARY[kind](*given)

    def _add_counter(self, var: relax.Var, call: relax.Call) -> None:
        x, thresholds, state, refractory = call.args
        high, low = self._parameters(thresholds, 1)
        counted, event, following = self.loop.count(
            self._signal(x), (high, low), int(refractory), self._tensor(state)
        )
        self.tensors[var, 0] = counted
        self.signals[var, 1] = event
        self.tensors[var, 2] = following

    def _add_operator(self, var: relax.Var, call: relax.Call, kind: str) -> None:
        """An operator of ours that computes a sample from samples, parameters and its state."""
        given = list(call.args)
        operator = (
            recurrence_of(str(given.pop().value))
            if kind == f"dsp.{RECURRENCE}"
            else SAMPLE_OPERATORS[kind.removeprefix("dsp.")]
        )
        *inputs, coefficients, state = given
        params = self._parameters(coefficients, operator.parameter_rank)
        step, usual = operator.step(len(params)), USUAL_FORMS.get(kind, "")
        form = self._form(var, kind, params)
        if form != usual:
            step, params = in_form(kind, params, form)
        if form == "transposed":
            step = split_gain(step, params)
        heard = self._heard(operator, inputs)
        held = self._tensor(state)
        results, following = self.loop.apply(step, heard, params, held)
        if form != usual:
            self.changed.append(held)
        if joint_outputs(call) > 1:
            self.tensors[var, 0] = self.loop.store_rows(results)
            self.tensors[var, 1] = following
        else:
            self.signals.update({(var, i): value for i, value in enumerate(results)})
            self.tensors[var, len(results)] = following

    def _form(self, var: relax.Var, kind: str, params: Sequence[Expr]) -> str:
        """The filter form, chosen where the filter's state and coefficients allow others."""
        usual = USUAL_FORMS.get(kind, "")
        if not (asking() and var in self.free and all(is_constant(p) for p in params)):
            return usual
        self.forms += 1
        name = "form" if self.forms == 1 else f"form {self.forms}"
        return choose(name, precise_forms(kind, params), usual)

    def _heard(self, operator: SampleOperator, inputs: Sequence[relax.Expr]) -> list[Expr]:
        if not operator.joint:
            return [self._signal(x) for x in inputs]
        source = self._tensor(inputs[0])
        return [self.loop.load(source, row=i) for i in range(len(operator.inputs))]

    def _key(self, var: relax.Var) -> tuple[relax.Var, int]:
        return self.items.get(var, (var, -1))

    def _tensor(self, expr: relax.Expr) -> int:
        self.arguments.append(self.value_of(expr))
        return self.loop.tensor(static_shape(expr) or (), str(expr.ty.dtype))

    def _signal(self, expr: relax.Expr, *, interleaved: bool = False) -> Expr:
        if isinstance(expr, tvm.ir.GenericConst) and expr.value.numpy().size == 1:
            return constants(expr.value.numpy())[0]
        if isinstance(expr, relax.Var) and self._key(expr) in self.signals:
            return self.signals[self._key(expr)]
        value = self.loop.load(self._tensor(expr), interleaved=interleaved)
        if isinstance(expr, relax.Var) and not interleaved:
            self.signals[self._key(expr)] = value
        return value

    def _parameters(self, expr: relax.Expr, rank: int) -> list[Expr]:
        """Known and the same for all channels: constants; else from a table of the channel's."""
        loop = self.loop
        if not isinstance(expr, tvm.ir.GenericConst):
            shape = static_shape(expr) or ()
            if len(shape) == rank:  # the same for all channels, but not known yet
                shape = (1, *shape)
                self.arguments.append(relax.op.reshape(self.value_of(expr), shape))
                index = loop.tensor(shape, str(expr.ty.dtype))
            else:
                index = self._tensor(expr)
            return loop.table(index, range(int(np.prod(shape[1:]))))
        values = expr.value.numpy()
        if values.ndim == rank:
            return constants(values)
        rows = values.reshape(values.shape[0], -1)
        own = [i for i in range(rows.shape[1]) if not (rows[:, i] == rows[0, i]).all()]
        leaves = dict(zip(own, loop.table(self._tensor(expr), own), strict=True)) if own else {}
        return [leaves.get(i, known) for i, known in enumerate(constants(rows[0]))]


def _truth(x: Expr) -> Expr:
    """What was loaded from memory, or computed, as a condition."""
    return x if is_truth(x) else binary("ne", x, 0.0)
