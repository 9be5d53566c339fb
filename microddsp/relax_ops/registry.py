"""The `dsp.*` operators of Relax: names, type rules, and the one place that registers them.

An operator without a legalisation is sample-wise: the fusion along time turns it into a loop.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from microddsp.errors import CompileError, nearest

if TYPE_CHECKING:
    from tvm import ir, relax

PREFIX = "dsp."
BLOCK_MODULES = (
    "fir",
    "causal_conv1d",
    "decimate",
    "frames",
    "first_sample",
    "delay",
    "tapped_delay",
    "resample",
    "rfft",
    "spectrum",
    "bands",
    "logarithm",
    "moving_max",
    "between",
    "table",
)
# Defined in their own modules, and run in loops over samples.
SAMPLE_MODULES = ("recurrence", "swept_delay")

TypeRule = Callable[["Sequence[relax.Expr]"], "relax.Type"]
Legalize = Callable[["relax.BlockBuilder", "relax.Call"], "relax.Expr"]


@dataclass(frozen=True, slots=True)
class RelaxOperator:
    """What Relax must know of one operator.

    `type_rule` maps the arguments to the result's type and raises CompileError; `legalize` gives
    TIR, or is None for a sample-wise operator.
    """

    name: str
    arguments: tuple[str, ...]
    type_rule: TypeRule
    legalize: Legalize | None = None


_OPERATORS: dict[str, RelaxOperator] = {}
_REGISTERED: set[str] = set()


def define(entry: RelaxOperator) -> RelaxOperator:
    """Add an operator to the table; Relax hears of it in `register_all`.

    Raises:
        ValueError: The name is taken.
    """
    if entry.name in _OPERATORS:
        raise ValueError(f"operator {PREFIX}{entry.name} is defined twice")
    _OPERATORS[entry.name] = entry
    return entry


def operators() -> tuple[RelaxOperator, ...]:
    """Every operator, sorted by name."""
    for module in (*BLOCK_MODULES, *SAMPLE_MODULES):
        importlib.import_module(f"microddsp.relax_ops.{module}")
    return tuple(_OPERATORS[name] for name in sorted(_OPERATORS))


def register_all() -> None:
    """Tell Relax about every operator; a second call does nothing."""
    import tvm.ir._ffi_api as ir_api
    from tvm import ir

    for entry in operators():
        if entry.name in _REGISTERED:
            continue
        full_name = PREFIX + entry.name
        ir_api.RegisterOp(full_name, f"{full_name}({', '.join(entry.arguments)})")
        ir_api.OpSetNumInputs(ir.Op.get(full_name), len(entry.arguments))
        ir.register_op_attr(full_name, "FPurity", True)
        ir.register_op_attr(full_name, "TScriptPrinterName", full_name)
        ir.register_op_attr(full_name, "FInferType", _infer(entry))
        if entry.legalize is not None:
            ir.register_op_attr(full_name, "FLegalize", entry.legalize)
        _REGISTERED.add(entry.name)


def _infer(entry: RelaxOperator) -> Callable[[relax.Call, relax.BlockBuilder], relax.Type]:
    def infer(node: relax.Call, _context: relax.BlockBuilder) -> relax.Type:
        return entry.type_rule(list(node.args))

    return infer


def operator(name: str) -> ir.Op:
    """The Relax operator of `dsp.<name>`; the prefix may be left out.

    Raises:
        CompileError: There is no such operator.
    """
    from tvm import ir

    register_all()
    return ir.Op.get(PREFIX + _entry(name).name)


def call(name: str, *args: relax.Expr | float | str) -> relax.Call:
    """A call of `dsp.<name>`; Python's numbers and strings become constants.

    Raises:
        CompileError: There is no such operator, or the arguments do not fit it.
    """
    from tvm import relax

    entry = _entry(name)
    values = [_constant(arg) for arg in args]
    if len(values) != len(entry.arguments):
        raise CompileError(
            f"{PREFIX}{entry.name} takes ({', '.join(entry.arguments)}), got {len(values)} values"
        )
    # Checked here as well: an error that passes through TVM arrives without its type.
    if all(value.ty is not None for value in values):
        entry.type_rule(values)
    return relax.Call(operator(entry.name), values)


def _constant(value: relax.Expr | float | str) -> relax.Expr:
    from tvm import ir, relax

    if isinstance(value, str):
        return ir.StringImm(value)
    return relax.prim_value(value) if isinstance(value, int | float) else value


def _entry(name: str) -> RelaxOperator:
    short = name.removeprefix(PREFIX)
    operators()
    if short not in _OPERATORS:
        raise CompileError(f"there is no operator {PREFIX}{short}", hint=nearest(short, _OPERATORS))
    return _OPERATORS[short]


# ---- what type rules are made of


def shape_of(operator_name: str, what: str, value: relax.Expr) -> tuple[int, ...]:
    """The fixed shape of a tensor argument.

    Raises:
        CompileError: The argument is no tensor, or its shape is not known.
    """
    from tvm import relax, tirx

    where = f"{PREFIX}{operator_name}"
    if not isinstance(value.ty, relax.TensorType):
        raise CompileError(f"{what} must be a tensor, not {value.ty}", where=where)
    dims = value.ty.shape.values if isinstance(value.ty.shape, relax.ShapeExpr) else None
    if dims is None or not all(isinstance(dim, tirx.IntImm) for dim in dims):
        raise CompileError(
            f"{what} has the shape {value.ty.shape}; every dimension must be a number",
            where=where,
            hint="a compiled model takes blocks of one fixed length",
        )
    return tuple(int(dim) for dim in dims)


def signal_shape(operator_name: str, value: relax.Expr) -> tuple[int, int]:
    """(channels, samples) of a float32 signal.

    Raises:
        CompileError: The argument is something else.
    """
    shape = shape_of(operator_name, "x", value)
    where = f"{PREFIX}{operator_name}"
    if len(shape) != 2:
        raise CompileError(
            f"a device processes signals (channels, samples), got the shape {shape}",
            where=where,
            hint="compile with an example input without batch dimensions",
        )
    if str(value.ty.dtype) != "float32":
        raise CompileError(f"x must be float32, not {value.ty.dtype}", where=where)
    return shape[0], shape[1]


def expect_shape(
    operator_name: str, what: str, value: relax.Expr, *allowed: tuple[int, ...], dtype: str
) -> tuple[int, ...]:
    """The shape of an argument that must have one of the allowed shapes.

    Raises:
        CompileError: It has another shape or type.
    """
    shape = shape_of(operator_name, what, value)
    where = f"{PREFIX}{operator_name}"
    if shape not in allowed:
        choices = " or ".join(str(one) for one in allowed)
        raise CompileError(f"{what} must have the shape {choices}, got {shape}", where=where)
    if str(value.ty.dtype) != dtype:
        raise CompileError(f"{what} must be {dtype}, not {value.ty.dtype}", where=where)
    return shape


def integer(operator_name: str, what: str, value: relax.Expr, *, least: int) -> int:
    """The value of an integer argument.

    Raises:
        CompileError: It is no integer known now, or is below `least`.
    """
    from tvm import tirx

    where = f"{PREFIX}{operator_name}"
    if not isinstance(value, tirx.IntImm):
        raise CompileError(f"{what} must be an integer known when compiling", where=where)
    if int(value) < least:
        raise CompileError(f"{what} must be at least {least}, got {int(value)}", where=where)
    return int(value)


# ---- sample-wise operators: a type rule is all that Relax needs


def _float_rule(
    name: str, width: int, state_width: int, *, sections: bool = False, outputs: int = 1
) -> TypeRule:
    def rule(args: Sequence[relax.Expr]) -> relax.Type:
        from tvm import relax

        *signals, coefficients, state = args
        channels, samples = signal_shape(name, signals[0])
        for other in signals[1:]:
            expect_shape(name, "a signal", other, (channels, samples), dtype="float32")
        given = shape_of(name, "coefficients", coefficients)
        count = (given[-2] if len(given) >= 2 else 1,) if sections else ()
        parameter = (*count, width)
        expect_shape(
            name, "coefficients", coefficients, parameter, (channels, *parameter), dtype="float32"
        )
        expect_shape(name, "state", state, (channels, *count, state_width), dtype="float32")
        results = [signal_type(channels, samples) for _ in range(outputs)]
        return relax.TupleType([*results, state.ty])

    return rule


def _event_counter_rule(args: Sequence[relax.Expr]) -> relax.Type:
    from tvm import relax

    x, thresholds, state, refractory = args
    channels, samples = signal_shape("event_counter", x)
    expect_shape("event_counter", "thresholds", thresholds, (2,), (channels, 2), dtype="float32")
    expect_shape("event_counter", "state", state, (channels, 3), dtype="int32")
    integer("event_counter", "refractory_samples", refractory, least=0)
    count = relax.TensorType((channels, 1), "int32")
    return relax.TupleType([count, signal_type(channels, samples), state.ty])


def _decode_input_rule(args: Sequence[relax.Expr]) -> relax.Type:
    raw, scale, offset, interleaved = args
    shape = shape_of("decode_input", "raw", raw)
    if len(shape) != 2:
        raise CompileError(
            f"raw samples have two dimensions, got {shape}", where="dsp.decode_input"
        )
    expect_shape("decode_input", "scale", scale, (), dtype="float32")
    expect_shape("decode_input", "offset", offset, (), dtype="float32")
    swapped = integer("decode_input", "interleaved", interleaved, least=0)
    return signal_type(*(shape[::-1] if swapped else shape))


def signal_type(*shape: int) -> relax.Type:
    """The type of a float32 tensor."""
    from tvm import relax

    return relax.TensorType(shape, "float32")


_FILTER = ("x", "coefficients", "state")
define(RelaxOperator("sos", _FILTER, _float_rule("sos", 5, 2, sections=True)))
define(RelaxOperator("svf", _FILTER, _float_rule("svf", 6, 2, sections=True)))
define(RelaxOperator("first_order", _FILTER, _float_rule("first_order", 3, 1)))
define(RelaxOperator("envelope", _FILTER, _float_rule("envelope", 2, 1)))
define(RelaxOperator("oscillator", _FILTER, _float_rule("oscillator", 4, 3)))
define(RelaxOperator("noise", _FILTER, _float_rule("noise", 1, 3)))
define(
    RelaxOperator("peaks", ("x", "highest", "coefficients", "state"), _float_rule("peaks", 4, 4))
)
define(RelaxOperator("swept", ("x", "cutoff", "coefficients", "state"), _float_rule("swept", 7, 2)))
define(
    RelaxOperator(
        "swept_quality",
        ("x", "cutoff", "quality", "coefficients", "state"),
        _float_rule("swept_quality", 8, 2),
    )
)
define(RelaxOperator("player", _FILTER, _float_rule("player", 5, 3, outputs=2)))
define(
    RelaxOperator(
        "event_counter", ("x", "thresholds", "state", "refractory_samples"), _event_counter_rule
    )
)
define(RelaxOperator("decode_input", ("raw", "scale", "offset", "interleaved"), _decode_input_rule))
