"""Converters of our operators, and the list of what nobody can convert."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import fx
from tvm import relax, te
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from microddsp.errors import UnsupportedOperatorError
from microddsp.frontend.aten import KERNELS
from microddsp.frontend.aten.elementwise import library_call
from microddsp.frontend.diagnostics import place
from microddsp.frontend.scans import convert_scan
from microddsp.frontend.units import RESULT
from microddsp.relax_ops.registry import call
from microddsp.schedules.graph import static_shape

_RESULTS = {
    "sos": 2,
    "svf": 2,
    "first_order": 2,
    "recurrence": 2,
    "envelope": 2,
    "event_counter": 3,
    "fir": 2,
    "causal_conv1d": 2,
    "decimate": 1,
    "frames": 2,
    "first_sample": 3,
    "delay": 2,
    "tapped_delay": 2,
    "resample": 2,
    "rfft": 1,
    "spectrum": 1,
    "bands": 1,
    "logarithm": 1,
    "oscillator": 2,
    "noise": 2,
    "moving_max": 2,
    "peaks": 2,
    "swept": 2,
    "swept_delay": 3,
    "swept_quality": 2,
    "player": 3,
    "table": 1,
    "between": 1,
}
# Imported, but left without a kernel for a device.
_NO_KERNEL = {
    "multinomial": "",
    "bernoulli": "",
    "rand": "random numbers differ on every device",
    "randn": "random numbers differ on every device",
    "rand_like": "random numbers differ on every device",
    "randn_like": "random numbers differ on every device",
    "index_put_": "write with torch.where or torch.cat",
    "nonzero": "shapes must not depend on values",
    "max_pool1d_with_indices": "",
}
_DEVICE_TYPES = {
    torch.float32,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
}


def _converter(name: str) -> Callable[[fx.Node, Any], Any]:
    def convert(node: fx.Node, importer: Any) -> Any:
        arguments = [importer.env[arg] if isinstance(arg, fx.Node) else arg for arg in node.args]
        if name == "causal_conv1d":
            arguments = _with_bias(arguments)
        builder = importer.block_builder
        result = builder.emit(call(name, *arguments))
        if _RESULTS[name] == 1:
            return result
        return [builder.emit(relax.TupleGetItem(result, i)) for i in range(_RESULTS[name])]

    return convert


def _with_bias(arguments: list[Any]) -> list[Any]:
    x, weight, bias, state, *rest = arguments
    if bias is None:
        import numpy as np

        bias = relax.const(np.zeros(int(weight.ty.shape[0]), "float32"))
    return [x, weight, bias, state, *rest]


def _extreme(reduce: Callable[..., Any]) -> Callable[[fx.Node, Any], Any]:
    """amax and amin, which the importer lacks."""

    def convert(node: fx.Node, importer: Any) -> Any:
        given: list[Any] = [*node.args, *([], False)[len(node.args) - 1 :]]
        x, dims, keep = given
        axes = list(dims) or None
        return importer.block_builder.emit(
            reduce(importer.env[x], axis=axes, keepdims=bool(node.kwargs.get("keepdim", keep)))
        )

    return convert


def _product(node: fx.Node, importer: Any) -> Any:
    """prod along one axis; torch's type of the result (int64 for integers) is computed in."""
    x, dim, keep = (*node.args, False)[:3]
    dtype = str(node.meta["val"].dtype).removeprefix("torch.")
    emit = importer.block_builder.emit
    value = importer.env[x]
    if str(value.ty.dtype) != dtype:
        value = emit(relax.op.astype(value, dtype))
    return emit(relax.op.prod(value, axis=dim, keepdims=bool(node.kwargs.get("keepdim", keep))))


def _pool(name: str) -> Callable[[fx.Node, Any], Any]:
    """Mean pools of a signal without batch axis, at which the importer fails."""

    def convert(node: fx.Node, importer: Any) -> Any:
        arguments: list[Any] = [*node.args]
        source, *rest = arguments
        emit = importer.block_builder.emit
        x = importer.env[source]
        batched = x.ty.ndim == 4
        x = x if batched else emit(relax.op.expand_dims(x, axis=0))
        if name == "adaptive":
            y = relax.op.nn.adaptive_avg_pool2d(x, list(rest[0]), layout="NCHW")
        else:
            size, stride, padding, ceil_mode, count_padding = (
                *rest,
                *(None, [], 0, False, True)[len(rest) :],
            )[:5]
            y = relax.op.nn.avg_pool2d(
                x,
                pool_size=size,
                strides=stride or size,
                padding=padding,
                ceil_mode=node.kwargs.get("ceil_mode", ceil_mode),
                count_include_pad=node.kwargs.get("count_include_pad", count_padding),
                layout="NCHW",
            )
        y = emit(y)
        return y if batched else emit(relax.op.squeeze(y, [0]))

    return convert


def _near_zero(name: str) -> Callable[[fx.Node, Any], Any]:
    """log1p and expm1, which the importer takes apart: near zero nothing would be left."""

    def function(x: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *i: library_call(f"{name}f", x(*i)), name=name)

    def convert(node: fx.Node, importer: Any) -> Any:
        x, builder = importer.env[node.args[0]], importer.block_builder
        if str(x.ty.dtype) not in ("float32", "float64"):
            x = builder.emit(relax.op.astype(x, "float32"))
        return builder.emit_te(function, x, primfunc_name_hint=name)

    return convert


def _permute(node: fx.Node, importer: Any) -> Any:
    """An order that moves only axes of length 1 gives the same memory another shape: no copy."""
    arguments: list[Any] = [*node.args]
    x, shape = importer.env[arguments[0]], static_shape(importer.env[arguments[0]])
    order = [axis % len(arguments[1]) for axis in arguments[1]]
    emit = importer.block_builder.emit
    if shape is not None:
        kept = [axis for axis in order if shape[axis] != 1]
        if kept == sorted(kept):
            return emit(relax.op.reshape(x, [shape[axis] for axis in order]))
    return emit(relax.op.permute_dims(x, order))


CONVERTERS: dict[str, Callable[[fx.Node, Any], Any]] = {
    f"{name}.default": _converter(name) for name in _RESULTS
} | {
    "log1p.default": _near_zero("log1p"),
    "expm1.default": _near_zero("expm1"),
    "permute.default": _permute,
    "amax.default": _extreme(relax.op.max),
    "amin.default": _extreme(relax.op.min),
    "prod.dim_int": _product,
    "avg_pool2d.default": _pool("plain"),
    "_adaptive_avg_pool2d.default": _pool("adaptive"),
    "scan": convert_scan,
    **KERNELS,
}


def checked_converters() -> dict[str, Callable[[fx.Node, Any], Any]]:
    """The importer's converters and ours; each refuses to give another type or shape than torch."""
    return {name: _checked(name) for name in _known()}


def _checked(name: str) -> Callable[[fx.Node, Any], Any]:
    def convert(node: fx.Node, importer: Any) -> Any:
        own = CONVERTERS.get(name)
        made = own(node, importer) if own else importer.create_convert_map()[name](node)
        node.meta[RESULT] = made
        value, kind = node.meta.get("val"), getattr(made, "ty", None)
        if isinstance(value, torch.Tensor) and isinstance(kind, relax.TensorType):
            wanted = (str(value.dtype).removeprefix("torch."), tuple(value.shape))
            found = (str(kind.dtype), static_shape(made))
            if found != wanted:
                raise UnsupportedOperatorError(
                    f"{name} would give {_words(*found)} where torch gives {_words(*wanted)}",
                    where=place(node),
                    hint="cast its operands to the type of the result, or write it another way",
                )
        return made

    return convert


def _words(dtype: str, shape: tuple[int, ...] | None) -> str:
    return f"{dtype} of shape {shape}"


@cache
def _known() -> frozenset[str]:
    return frozenset(ExportedProgramImporter().create_convert_map()) | frozenset(CONVERTERS)


def check_supported(program: torch.export.ExportedProgram, *, doubles: bool = False) -> None:
    """Refuse operators without a converter or kernel, and types without C, all at once. `doubles`
    allows float64: in designs, never in signals.

    Raises:
        UnsupportedOperatorError: Lists each with module path and line.
    """
    known = _known()
    problems: dict[str, None] = {}
    for node in program.graph.nodes:
        if node.op not in ("call_function", "placeholder"):
            continue
        reason = _problem(node, known, doubles)
        if reason:
            problems[f"{reason} ({place(node)})"] = None
    if problems:
        lines = list(problems)
        raise UnsupportedOperatorError(
            "this model uses what cannot be compiled:\n" + "\n".join(f"  - {p}" for p in lines),
            hint="`microddsp ops` lists what can be compiled",
        )


def _problem(node: fx.Node, known: frozenset[str], doubles: bool) -> str:
    value = node.meta.get("val")
    for tensor in value if isinstance(value, tuple | list) else [value]:
        dtype = getattr(tensor, "dtype", None)
        if isinstance(tensor, torch.Tensor) and tensor.is_complex():
            return f"{node.name} is complex; give torch.view_as_real(x), or what is made of it"
        if doubles and dtype == torch.float64:
            continue
        if isinstance(tensor, torch.Tensor) and dtype not in _DEVICE_TYPES:
            return f"{node.name} has type {dtype}; use float32 or an integer type"
        if isinstance(tensor, torch.Tensor) and not all(isinstance(d, int) for d in tensor.shape):
            return f"{node.name} has a shape that depends on values"
    if node.op == "placeholder" or node.target is operator.getitem:
        return ""
    name = getattr(node.target, "__name__", str(node.target))
    short = name.split(".")[0]
    if short in _NO_KERNEL:
        hint = _NO_KERNEL[short]
        return f"{short} has no kernel for a device" + (f": {hint}" if hint else "")
    if short in ("dropout", "native_dropout") and node.args[2]:
        return "dropout that is always on is random; give it training=self.training"
    if name not in known:
        return f"operator {name} is not supported"
    return ""
