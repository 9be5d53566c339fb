"""Reverse-mode differentiation of a step: from an operator's definition to its adjoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from microddsp.relax_ops.expression import (
    COMPARISONS,
    LOGIC,
    Expr,
    Step,
    binary,
    constant,
    in_order,
    leaf,
    select,
    unary,
)


@dataclass(frozen=True, slots=True)
class Adjoint:
    """One sample of the backward recursion.

    It reads the leaves of the step (inputs and parameters), saved outputs (`outputs`), taped
    values (`tape`, computed by the forward pass as `taped`), cotangents of outputs and of the
    next states; it gives cotangents of inputs, parameters (to be summed) and states.
    """

    taped: tuple[Expr, ...]
    tape: tuple[Expr, ...]
    outputs: tuple[Expr, ...]
    output_cotangents: tuple[Expr, ...]
    state_cotangents: tuple[Expr, ...]
    input_gradients: tuple[Expr, ...]
    param_gradients: tuple[Expr, ...]
    state_gradients: tuple[Expr, ...]


def differentiate(step: Step) -> Adjoint:
    """The adjoint with a small tape: what the inputs, parameters and outputs already tell is
    not stored. For a cascade of filter sections the tape is the inner section outputs."""
    saved = _Saved(step)
    gy = tuple(leaf(f"gy{i}") for i in range(len(step.outputs)))
    gz = tuple(leaf(f"gz{i}") for i in range(len(step.next_states)))
    cotangent: dict[int, Expr] = {}

    def add(expr: Expr, value: Expr) -> None:
        known = cotangent.get(id(expr))
        cotangent[id(expr)] = value if known is None else known + value

    for expr, value in zip((*step.outputs, *step.next_states), (*gy, *gz), strict=True):
        add(expr, value)
    order = in_order([*step.outputs, *step.next_states])
    needed = _Needed(saved, order)
    for expr in reversed(order):
        if id(expr) in cotangent and expr.op in _RULES:
            shares = _RULES[expr.op](expr, cotangent[id(expr)], needed)
            for arg, share in zip(expr.args, shares, strict=True):
                if share is not None:
                    add(arg, share)
    zero = constant(0.0)

    def gradients(leaves: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(cotangent.get(id(value), zero) for value in leaves)

    return Adjoint(
        taped=tuple(saved.taped),
        tape=tuple(saved.tape),
        outputs=tuple(saved.outputs),
        output_cotangents=gy,
        state_cotangents=gz,
        input_gradients=gradients(step.inputs),
        param_gradients=gradients(step.params),
        state_gradients=gradients(step.states),
    )


def reads_output(adjoint: Adjoint) -> bool:
    """Whether the backward recursion needs what the forward pass gave out."""
    results = (*adjoint.input_gradients, *adjoint.param_gradients, *adjoint.state_gradients)
    outputs = {id(y) for y in adjoint.outputs}
    return any(id(expr) in outputs for expr in in_order(results))


class _Saved:
    """How the backward pass gets at a primal value."""

    def __init__(self, step: Step) -> None:
        self.outputs = [leaf(f"y{i}") for i in range(len(step.outputs))]
        self.taped: list[Expr] = []
        self.tape: list[Expr] = []
        self._states = {id(z) for z in step.states}
        self._known: dict[int, Expr] = {
            id(y): saved
            for y, saved in zip(step.outputs, self.outputs, strict=True)
            if y.op not in ("leaf", "const")
        }
        self._known.update({id(v): v for v in (*step.inputs, *step.params)})

    def free(self, expr: Expr) -> Expr | None:
        """The value from what is there already, or None."""
        if id(expr) in self._known or expr.op == "const":
            return self._known.get(id(expr), expr)
        if id(expr) in self._states:
            return None
        args: list[Expr] = []
        for arg in expr.args:
            value = self.free(arg)
            if value is None:
                return None
            args.append(value)
        self._known[id(expr)] = Expr(expr.op, tuple(args))
        return self._known[id(expr)]

    def get(self, expr: Expr) -> Expr:
        """The value, put on the tape if there is no other way."""
        known = self.free(expr)
        if known is not None:
            return known
        found = leaf(f"tape{len(self.tape)}")
        self.taped.append(expr)
        self.tape.append(found)
        self._known[id(expr)] = found
        return found


class _Needed:
    """Asks for primal values in the order of the forward pass, so that a taped value serves all
    that can be computed from it."""

    def __init__(self, saved: _Saved, order: list[Expr]) -> None:
        wanted: set[int] = set()
        for expr in order:
            if expr.op == "mul":
                a, b = expr.args
                wanted |= {id(b)} if a.op != "const" else set()
                wanted |= {id(a)} if b.op != "const" else set()
            elif expr.op == "div":
                wanted |= {id(arg) for arg in expr.args}
            elif expr.op in ("abs", "log", "sin", "cos"):
                wanted.add(id(expr.args[0]))
            elif expr.op in ("max", "min", "fmod"):
                wanted |= {id(arg) for arg in expr.args}
            elif expr.op in ("sqrt", "exp", "tan", "tanh"):
                wanted.add(id(expr))
            elif expr.op == "select":
                wanted.add(id(expr.args[0]))
        self._values: dict[int, Expr] = {}
        for expr in order:
            if id(expr) not in wanted:
                continue
            for value in _compared(expr):
                saved.get(value)
            self._values[id(expr)] = saved.get(expr)

    def __call__(self, expr: Expr) -> Expr:
        return self._values[id(expr)]


def _compared(expr: Expr) -> list[Expr]:
    """A truth is no float to be stored: what it compares is stored instead."""
    if expr.op in COMPARISONS:
        return list(expr.args)
    return [v for arg in expr.args for v in _compared(arg)] if expr.op in LOGIC else []


_Gradients = tuple[Expr | None, ...]
_Rule = Callable[[Expr, Expr, _Needed], _Gradients]


def _product(e: Expr, g: Expr, at: _Needed) -> _Gradients:
    a, b = e.args
    return (
        None if a.op == "const" else g * at(b),
        None if b.op == "const" else g * at(a),
    )


def _quotient(e: Expr, g: Expr, at: _Needed) -> _Gradients:
    a, b = at(e.args[0]), at(e.args[1])
    return g / b, -(g * a) / (b * b)


def _choice(e: Expr, g: Expr, at: _Needed) -> _Gradients:
    condition = at(e.args[0])
    return None, select(condition, g, 0.0), select(condition, 0.0, g)


def _extreme(e: Expr, g: Expr, at: _Needed) -> _Gradients:
    """Equal ones share, as in torch."""
    a, b = at(e.args[0]), at(e.args[1])
    first = binary("gt" if e.op == "max" else "lt", a, b)
    equal = binary("eq", a, b)
    half = g * 0.5
    return select(equal, half, select(first, g, 0.0)), select(equal, half, select(first, 0.0, g))


def _modulo(e: Expr, g: Expr, at: _Needed) -> _Gradients:
    """fmod(a, b) is a - b times a whole number."""
    a, b = at(e.args[0]), at(e.args[1])
    quotient = a / b
    whole = select(quotient < 0.0, -unary("floor", -quotient), unary("floor", quotient))
    return g, None if b.op == "const" else -(g * whole)


_RULES: dict[str, _Rule] = {
    "add": lambda e, g, at: (g, g),
    "sub": lambda e, g, at: (g, -g),
    "neg": lambda e, g, at: (-g,),
    "mul": _product,
    "div": _quotient,
    "select": _choice,
    "max": _extreme,
    "min": _extreme,
    "fmod": _modulo,
    # the derivative of |x| at zero is zero
    "abs": lambda e, g, at: (select(at(e.args[0]) > 0.0, g, select(at(e.args[0]) < 0.0, -g, 0.0)),),
    "sqrt": lambda e, g, at: (g / (at(e) * 2.0),),
    "exp": lambda e, g, at: (g * at(e),),
    "log": lambda e, g, at: (g / at(e.args[0]),),
    "sin": lambda e, g, at: (g * unary("cos", at(e.args[0])),),
    "cos": lambda e, g, at: (-(g * unary("sin", at(e.args[0]))),),
    "trunc": lambda e, g, at: (None,),
    "tan": lambda e, g, at: (g * (1.0 + at(e) * at(e)),),
    "tanh": lambda e, g, at: (g * (1.0 - at(e) * at(e)),),
}
