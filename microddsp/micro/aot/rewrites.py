"""Rewrites on lowered TIR that make TVM's C generator print right, exact and fast C."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Op

from microddsp.relax_ops.copy import extern_of
from microddsp.schedules.scalar_code import OPAQUE

# More than this much scratch does not go on the stack but into the arena.
STACK_SCRATCH_BYTES = 64
# A call without arguments whose name carries the text of a constant: see `_exact`.
EXACT = "microddsp_exact_"

_SHORT = ("int8", "uint8", "int16")

# C functions by intrinsic: the generator has no rule for some and picks double ones for others.
_C_FUNCTIONS = {
    "tirx.fabs": "fabsf",
    "tirx.exp": "expf",
    "tirx.exp2": "exp2f",
    "tirx.log": "logf",
    "tirx.log2": "log2f",
    "tirx.log10": "log10f",
    "tirx.log1p": "log1pf",
    "tirx.sqrt": "sqrtf",
    "tirx.tanh": "tanhf",
    "tirx.sinh": "sinhf",
    "tirx.cosh": "coshf",
    "tirx.sin": "sinf",
    "tirx.cos": "cosf",
    "tirx.tan": "tanf",
    "tirx.asin": "asinf",
    "tirx.acos": "acosf",
    "tirx.atan": "atanf",
    "tirx.atan2": "atan2f",
    "tirx.erf": "erff",
    "tirx.pow": "powf",
    "tirx.floor": "floorf",
    "tirx.ceil": "ceilf",
    "tirx.trunc": "truncf",
    "tirx.round": "rintf",
    "tirx.nearbyint": "rintf",
    "tirx.fmod": "fmodf",
    "tirx.hypot": "hypotf",
    "tirx.copysign": "copysignf",
}


@dataclass(frozen=True, slots=True)
class Scratch:
    """A local array that became a pointer parameter."""

    buffer: tirx.Buffer
    dtype: str
    elements: int


def hoist_scratch(body: tirx.Stmt) -> tuple[tirx.Stmt, list[Scratch]]:
    """Take local arrays above STACK_SCRATCH_BYTES out of the function, in order of appearance."""
    found: list[Scratch] = []

    def take(stmt: tirx.AllocBuffer) -> tirx.Stmt:
        elements = 1
        for size in stmt.buffer.shape:
            elements *= int(size)
        dtype = str(stmt.buffer.dtype)
        if elements * np.dtype(dtype).itemsize <= STACK_SCRATCH_BYTES:
            return stmt
        found.append(Scratch(stmt.buffer, dtype, elements))
        return tirx.Evaluate(0)

    body = tvm_ffi.structural_map(body, (tirx.AllocBuffer, take), order="post")
    return body, found


def rewrite_for_c(body: tirx.Stmt, *, fma: bool) -> tirx.Stmt:
    """All rewrites, in order: intrinsics and max/min first, then contraction, constants last."""
    body = tvm_ffi.structural_map(
        body,
        [
            (tirx.Max, _maximum),
            (tirx.Min, _minimum),
            (tvm.ir.Call, _c_function),
            *((node, _wrapping) for node in (tirx.Add, tirx.Sub, tirx.Mul)),
        ],
        order="post",
    )
    if fma:
        body = tvm_ffi.structural_map(
            body, [(tirx.Add, _contract_add), (tirx.Sub, _contract_sub)], order="post"
        )
    return tvm_ffi.structural_map(body, (tirx.FloatImm, _exact), order="post")


def uncover(body: tirx.Stmt) -> tirx.Stmt:
    """Take away the calls that hid values from TVM's passes; the last thing before printing."""
    return tvm_ffi.structural_map(body, (tvm.ir.Call, _transparent), order="post")


def _transparent(call: tvm.ir.Call) -> tvm.ir.Expr:
    return call.args[1] if is_extern(call, OPAQUE, pure=False) else call


def _is_float(expr: tvm.ir.Expr) -> bool:
    return str(expr.ty) == "float32"


# max/min: the printer caches the text of their operands and would reuse a stale value after a
# store. Select prints right. For floats NaN passes through, as torch does.
def _maximum(expr: tirx.Max) -> tvm.ir.Expr:
    if _is_float(expr):
        return _extern("microddsp_max", expr.a, expr.b)
    return tirx.Select(expr.a > expr.b, expr.a, expr.b)


def _minimum(expr: tirx.Min) -> tvm.ir.Expr:
    if _is_float(expr):
        return _extern("microddsp_min", expr.a, expr.b)
    return tirx.Select(expr.a < expr.b, expr.a, expr.b)


def _wrapping(expr: tvm.ir.Expr) -> tvm.ir.Expr:
    """C adds short integers as `int`, torch wraps them around: wide, then short again."""
    short = str(expr.ty)
    if short not in _SHORT:
        return expr
    a, b = (tirx.Cast("int32", operand) for operand in (expr.a, expr.b))
    return tirx.Cast(short, type(expr)(a, b))


def _extern(name: str, *args: tvm.ir.Expr) -> tvm.ir.Expr:
    return tirx.call_pure_extern("float32", name, *args)


def _c_function(call: tvm.ir.Call) -> tvm.ir.Expr:
    if isinstance(call.op, Op) and str(call.ty) == "float64":
        name = _C_FUNCTIONS.get(call.op.name)
        double = name.removesuffix("f") if name else ""
        return tirx.call_pure_extern("float64", double, *call.args) if double else call
    if not isinstance(call.op, Op) or str(call.ty) != "float32":
        return call
    if call.op.name == "tirx.sigmoid":
        return tirx.FloatImm("float32", 1.0) / (
            tirx.FloatImm("float32", 1.0) + _extern("expf", negate(call.args[0]))
        )
    if call.op.name == "tirx.rsqrt":
        return tirx.FloatImm("float32", 1.0) / _extern("sqrtf", call.args[0])
    name = _C_FUNCTIONS.get(call.op.name)
    return _extern(name, *call.args) if name else call


def negate(expr: tvm.ir.Expr) -> tvm.ir.Expr:
    """Unary minus: `0 - x` is not the same for zero and keeps the compiler from fusing it."""
    if isinstance(expr, tirx.FloatImm):
        return tirx.FloatImm(str(expr.ty), -float(expr.value))
    if is_extern(expr, "-"):
        return expr.args[1]
    return _extern("-", expr)


def is_extern(expr: tvm.ir.Expr, name: str, *, pure: bool = True) -> bool:
    return extern_of(expr, pure=pure) == name


def _product(expr: tvm.ir.Expr) -> tuple[tvm.ir.Expr, tvm.ir.Expr] | None:
    if isinstance(expr, tirx.Mul) and _is_float(expr):
        return expr.a, expr.b
    if is_extern(expr, "-") and isinstance(expr.args[1], tirx.Mul):
        return negate(expr.args[1].a), expr.args[1].b
    return None


def _negated(a: tvm.ir.Expr, b: tvm.ir.Expr) -> tuple[tvm.ir.Expr, tvm.ir.Expr]:
    """-(a*b) as factors: the sign goes to a constant where there is one."""
    return (a, negate(b)) if isinstance(b, tirx.FloatImm) else (negate(a), b)


def _contract_add(expr: tirx.Add) -> tvm.ir.Expr:
    """a*b + c as fmaf: the schedule's choice, never the compiler's."""
    if not _is_float(expr):
        return expr
    for product, addend in ((expr.b, expr.a), (expr.a, expr.b)):
        factors = _product(product)
        if factors:
            return _extern("fmaf", *factors, addend)
    return expr


def _contract_sub(expr: tirx.Sub) -> tvm.ir.Expr:
    if not _is_float(expr):
        return expr
    factors = _product(expr.b)
    if factors:
        return _extern("fmaf", *_negated(*factors), expr.a)
    factors = _product(expr.a)
    if factors:
        return _extern("fmaf", *factors, negate(expr.b))
    return expr


def _exact(imm: tirx.FloatImm) -> tvm.ir.Expr:
    """The generator prints seven digits, which is not the number: pass the exact one through."""
    if str(imm.ty) == "float64":
        return tirx.call_pure_extern("float64", f"{EXACT}{c_double(float(imm.value))}")
    if str(imm.ty) != "float32":
        return imm
    return _extern(f"{EXACT}{c_float(float(imm.value))}")


def c_float(value: float) -> str:
    """A C literal that is exactly the float32 nearest to `value`."""
    value = float(np.float32(value))
    return f"{c_double(value)}f" if math.isfinite(value) else c_double(value)


def c_double(value: float) -> str:
    """A C literal that is exactly this double."""
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    if value == int(value) and abs(value) < 2**24:
        return f"{value:.1f}"
    mantissa, exponent = value.hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}"
