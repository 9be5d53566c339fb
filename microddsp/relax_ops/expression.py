"""Scalar expressions: the one definition of a sample-wise operator.

An operator says what it does to *one sample* as a Python function on `Expr`; `trace` turns that
into a `Step`. Everything else is made from the step: the torch reference, the training kernels
and their adjoint, and the loop on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Number = int | float
UNARY = (
    "neg",
    "abs",
    "sqrt",
    "exp",
    "log",
    "sin",
    "cos",
    "tan",
    "tanh",
    "floor",
    "trunc",
    "to_float",
    "not",
)
COMPARISONS = ("lt", "gt", "le", "ge", "eq", "ne")
LOGIC = ("and", "or", "not")
BINARY = ("add", "sub", "mul", "div", "fmod", "max", "min", *COMPARISONS, "and", "or")


class Expr:
    """One scalar value of a step. Compare with `<` and `>`, choose with `select`."""

    __slots__ = ("args", "name", "op", "value")

    def __init__(
        self, op: str, args: tuple[Expr, ...] = (), *, name: str = "", value: float = 0.0
    ) -> None:
        self.op = op
        self.args = args
        self.name = name
        self.value = value

    def __add__(self, other: Expr | Number) -> Expr:
        return binary("add", self, other)

    def __radd__(self, other: Number) -> Expr:
        return binary("add", other, self)

    def __sub__(self, other: Expr | Number) -> Expr:
        return binary("sub", self, other)

    def __rsub__(self, other: Number) -> Expr:
        return binary("sub", other, self)

    def __mul__(self, other: Expr | Number) -> Expr:
        return binary("mul", self, other)

    def __rmul__(self, other: Number) -> Expr:
        return binary("mul", other, self)

    def __truediv__(self, other: Expr | Number) -> Expr:
        return binary("div", self, other)

    def __rtruediv__(self, other: Number) -> Expr:
        return binary("div", other, self)

    def __neg__(self) -> Expr:
        return unary("neg", self)

    def __abs__(self) -> Expr:
        return unary("abs", self)

    def __lt__(self, other: Expr | Number) -> Expr:
        return binary("lt", self, other)

    def __gt__(self, other: Expr | Number) -> Expr:
        return binary("gt", self, other)

    def __repr__(self) -> str:
        if self.op == "const":
            return repr(self.value)
        return self.name or f"{self.op}({', '.join(map(repr, self.args))})"


def constant(value: Number) -> Expr:
    return Expr("const", value=float(value))


def leaf(name: str) -> Expr:
    """A free variable: an input sample, a parameter, a state."""
    return Expr("leaf", name=name)


def is_constant(expr: Expr, value: float | None = None) -> bool:
    return expr.op == "const" and (value is None or expr.value == value)


def _as_expr(value: Expr | Number) -> Expr:
    return value if isinstance(value, Expr) else constant(value)


def unary(op: str, arg: Expr) -> Expr:
    """Apply one of UNARY; negations of constants and of negations disappear."""
    if op == "neg":
        if arg.op == "const":
            return constant(-arg.value)
        if arg.op == "neg":
            return arg.args[0]
    return Expr(op, (arg,))


def binary(op: str, left: Expr | Number, right: Expr | Number) -> Expr:
    """Apply one of BINARY; exact identities (x+0, x*1, x*0, x*-1) are folded here, so that a
    coefficient which is known to be zero or one costs nothing anywhere."""
    a, b = _as_expr(left), _as_expr(right)
    if op == "add":
        if is_constant(a, 0.0):
            return b
        if is_constant(b, 0.0):
            return a
        if b.op == "neg":
            return binary("sub", a, b.args[0])
        if a.op == "neg":
            return binary("sub", b, a.args[0])
    elif op == "sub":
        if is_constant(b, 0.0):
            return a
        if is_constant(a, 0.0):
            return unary("neg", b)
        if b.op == "neg":
            return binary("add", a, b.args[0])
    elif op == "mul":
        for one, other in ((a, b), (b, a)):
            if is_constant(one, 0.0):
                return constant(0.0)
            if is_constant(one, 1.0):
                return other
            if is_constant(one, -1.0):
                return unary("neg", other)
            if one.op == "const" and other.op == "mul" and is_constant(other.args[1]):
                return binary("mul", other.args[0], constant(one.value * other.args[1].value))
        if a.op == "const":
            return Expr(op, (b, a))
    elif op == "div" and is_constant(b, 1.0):
        return a
    return Expr(op, (a, b))


def select(condition: Expr, yes: Expr | Number, no: Expr | Number) -> Expr:
    """`yes` where the condition holds, else `no`; both are evaluated."""
    return Expr("select", (condition, _as_expr(yes), _as_expr(no)))


@dataclass(frozen=True, slots=True)
class Step:
    """What happens at one sample: outputs and next states as expressions over the leaves."""

    inputs: tuple[Expr, ...]
    params: tuple[Expr, ...]
    states: tuple[Expr, ...]
    outputs: tuple[Expr, ...]
    next_states: tuple[Expr, ...]


StepFunction = Callable[
    [Sequence[Expr], Sequence[Expr], Sequence[Expr]], tuple[Sequence[Expr], Sequence[Expr]]
]


def trace(function: StepFunction, inputs: int, params: int, states: int) -> Step:
    """Run `function(inputs, params, states) -> (outputs, next_states)` on fresh leaves."""
    x = tuple(leaf(f"x{i}") for i in range(inputs))
    p = tuple(leaf(f"p{i}") for i in range(params))
    z = tuple(leaf(f"z{i}") for i in range(states))
    outputs, next_states = function(x, p, z)
    return Step(x, p, z, tuple(outputs), tuple(next_states))


def in_order(roots: Iterable[Expr]) -> list[Expr]:
    """Every expression below `roots` once, arguments before users."""
    seen: set[int] = set()
    order: list[Expr] = []
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        expr, ready = stack.pop()
        if ready:
            order.append(expr)
        elif id(expr) not in seen:
            seen.add(id(expr))
            stack.append((expr, True))
            stack.extend((arg, False) for arg in reversed(expr.args))
    return order


def substitute(roots: Sequence[Expr], known: dict[int, Expr]) -> list[Expr]:
    """Rebuild `roots` with leaves replaced (by id); foldings happen again on the way."""
    done: dict[int, Expr] = dict(known)
    for expr in in_order(roots):
        if id(expr) in done:
            continue
        args = tuple(done[id(arg)] for arg in expr.args)
        if not args or all(new is old for new, old in zip(args, expr.args, strict=True)):
            done[id(expr)] = expr
        elif expr.op in BINARY:
            done[id(expr)] = binary(expr.op, args[0], args[1])
        elif expr.op in UNARY:
            done[id(expr)] = unary(expr.op, args[0])
        else:
            done[id(expr)] = Expr(expr.op, args)
    return [done[id(root)] for root in roots]
