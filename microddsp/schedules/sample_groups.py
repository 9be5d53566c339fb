"""Which operators share a sample loop.

Every binding gets a level: a loop runs at the level of its deepest input, anything else one
level later, and so does a recursion in which channels meet. Sample-wise operators of one level,
one signal shape and one connected piece form a group; by construction no group waits for
something that waits for the group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tvm import relax

from microddsp.relax_ops.recurrence import NAME as RECURRENCE
from microddsp.relax_ops.recurrence import operator as recurrence_of
from microddsp.relax_ops.sample_operator import SAMPLE_OPERATORS
from microddsp.relax_ops.swept_delay import NAME as SWEPT_DELAY
from microddsp.schedules.graph import operands, operator_name, static_shape

# relax element-wise operators that have a scalar expression, by number of signal operands
ELEMENTWISE = {
    "relax.abs": 1,
    "relax.negative": 1,
    "relax.sqrt": 1,
    "relax.exp": 1,
    "relax.log": 1,
    "relax.sin": 1,
    "relax.cos": 1,
    "relax.tanh": 1,
    "relax.square": 1,
    "relax.nn.relu": 1,
    "relax.clip": 1,
    "relax.add": 2,
    "relax.subtract": 2,
    "relax.multiply": 2,
    "relax.divide": 2,
    "relax.maximum": 2,
    "relax.minimum": 2,
    "relax.greater": 2,
    "relax.greater_equal": 2,
    "relax.less": 2,
    "relax.less_equal": 2,
    "relax.logical_and": 2,
    "relax.logical_or": 2,
    "relax.bitwise_and": 2,
    "relax.bitwise_or": 2,
    "relax.where": 3,
    "relax.astype": 1,
    "relax.broadcast_to": 1,
}
DECIMATE = "dsp.decimate"
SUM = "relax.sum"
_DTYPES = ("float32", "bool")
SAMPLE_CALLS = {
    "dsp.event_counter",
    "dsp.decode_input",
    f"dsp.{SWEPT_DELAY}",
    *(f"dsp.{name}" for name in (*SAMPLE_OPERATORS, RECURRENCE)),
}


@dataclass(slots=True)
class Group:
    """Bindings of one loop, in their order; `anchored` if a dsp operator is among them."""

    shape: tuple[int, int]
    bindings: list[relax.VarBinding] = field(default_factory=list)

    @property
    def anchored(self) -> bool:
        return any(operator_name(b.value) in SAMPLE_CALLS for b in self.bindings)


def signal_shape(call: relax.Call) -> tuple[int, int] | None:
    """(channels, samples) that a sample-wise call works on; None if it is none."""
    name = operator_name(call)
    if name == "dsp.decode_input":
        shape = static_shape(call)
    elif name in SAMPLE_CALLS:
        shape = static_shape(call.args[0])
        if shape is not None and joint_outputs(call):
            shape = (1, *shape[1:])
    elif name in ELEMENTWISE:
        shape = static_shape(call)
        if str(call.ty.dtype) not in _DTYPES:
            return None
        if any(not _fits(arg, shape) for arg in call.args[: ELEMENTWISE[name]]):
            return None
    else:
        return None
    if shape is None or len(shape) != 2:
        return None
    return shape[0], shape[1]


def joint_outputs(call: relax.Expr) -> int:
    """How many channels a recursion gives in which channels meet; 0 for any other call."""
    if operator_name(call) != f"dsp.{RECURRENCE}":
        return 0
    operator = recurrence_of(str(call.args[-1].value))
    return operator.outputs if operator.joint else 0


def leaves_loop(value: relax.Expr) -> bool:
    """Whether a loop may give this of one of its signals: fewer samples, the sum of channels."""
    name = operator_name(value)
    if name != SUM:
        return name == DECIMATE
    shape = static_shape(value.args[0])
    if shape is None or len(shape) != 2 or shape[0] == 1 or str(value.ty.dtype) != "float32":
        return False
    return [int(axis) % 2 for axis in value.attrs.axis or ()] == [0] and bool(value.attrs.keepdims)


def _fits(arg: relax.Expr, shape: tuple[int, ...] | None) -> bool:
    """A float32 or boolean operand that broadcasts to the signal's shape."""
    own = static_shape(arg)
    return (
        own is not None
        and shape is not None
        and len(own) <= len(shape)
        and str(arg.ty.dtype) in _DTYPES
    )


def group(bindings: Sequence[relax.VarBinding]) -> list[Group]:
    """Groups of sample-wise bindings with at least one dsp operator, in order of first binding."""
    level: dict[relax.Var, int] = {}
    piece: dict[relax.Var, tuple[int, tuple[int, int], int]] = {}
    parent: list[int] = []

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    members: dict[int, list[relax.VarBinding]] = defaultdict(list)
    shapes: dict[int, tuple[int, int]] = {}
    for binding in bindings:
        value = binding.value
        used = operands(value)
        deepest = max((level.get(var, 0) for var in used), default=0)
        shape = signal_shape(value) if isinstance(value, relax.Call) else None
        if leaves_loop(value) and used and piece.get(used[0], (-1,))[0] == deepest:
            # the loop keeps some of its samples, or their sum; who reads them is a later loop
            maker = piece[used[0]][2]
            members[maker].append(binding)
            level[binding.var] = deepest + 1
            continue
        if isinstance(value, relax.TupleGetItem | relax.Var):
            level[binding.var] = deepest
            if isinstance(value, relax.TupleGetItem) and value.tuple_value in piece:
                piece[binding.var] = piece[value.tuple_value]
            elif isinstance(value, relax.Var) and value in piece:
                piece[binding.var] = piece[value]
            continue
        if shape is None:
            level[binding.var] = deepest + 1
            continue
        channels = joint_outputs(value)
        if channels:
            # it reads channels that a loop over channels has to give first
            deepest += 1
        level[binding.var] = deepest
        mine = len(parent)
        parent.append(mine)
        for var in used:
            other = piece.get(var)
            if other is not None and other[:2] == (deepest, shape):
                parent[root(other[2])] = root(mine)
        if channels < 2:  # several channels leave the loop in memory
            piece[binding.var] = (deepest, shape, mine)
        shapes[mine] = shape
        members[mine].append(binding)
    groups: dict[int, Group] = {}
    for mine, own in members.items():
        top = root(mine)
        groups.setdefault(top, Group(shapes[mine])).bindings.extend(own)
    return [g for g in groups.values() if g.anchored]
