"""What must hold of a module before it is worth tracing, and of its filters after."""

from __future__ import annotations

import math
import warnings

import torch
from torch import fx

from microddsp import relax_ops
from microddsp.dsp.block import Block
from microddsp.dsp.filter import Filter, as_svf, pole_radius, poles
from microddsp.dsp.input_rate import input_rate_hz
from microddsp.errors import CompileError, ParameterError, PrecisionWarning
from microddsp.frontend.constant_folding import constants
from microddsp.frontend.diagnostics import place

_KINDS = ("sos", "svf", "first_order")
# Direct forms with a pole nearer to 1 than this, in radians, are tried in float32.
_SUSPECT = 2 * math.pi / 100
_TRIED_SAMPLES = 1 << 16
_TOLERATED = 1e-3


def check_module(module: torch.nn.Module) -> None:
    """Refuse what is no module, and parameters or buffers that are not finite.

    Raises:
        CompileError: Names the parameter or block.
    """
    if not isinstance(module, torch.nn.Module):
        raise CompileError(
            f"a torch.nn.Module is compiled, not a {type(module).__name__}",
            hint="give an instance, not the class" if isinstance(module, type) else "",
        )
    named = [*module.named_parameters(), *module.named_buffers()]
    for name, value in named:
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CompileError("the parameter is not finite (NaN or infinite)", where=name)
    for path, inner in module.named_modules():
        if isinstance(inner, Block):
            try:
                inner.check()
            except ParameterError as error:
                raise CompileError(error.message, where=path) from error


def check_stability(program: torch.export.ExportedProgram) -> None:
    """Refuse filters whose folded coefficients are not finite, or do not decay.

    Raises:
        CompileError: Names the block and its line.
    """
    values = constants(program)
    for node in program.graph.nodes:
        name = getattr(node.target, "__name__", "").split(".")[0]
        if node.op != "call_function" or name not in (*_KINDS, "envelope"):
            continue
        source = node.args[1]
        if not isinstance(source, fx.Node) or source.name not in values:
            continue
        c = values[source.name].double()
        if not bool(torch.isfinite(c).all()):
            raise CompileError("coefficients are not finite", where=place(node))
        if name == "envelope":
            if not bool(((c > 0) & (c <= 1)).all()):
                raise CompileError(
                    "attack and release must lie in (0, 1] per sample", where=place(node)
                )
            continue
        radius = float(pole_radius(name, c).max())
        if radius >= 1.0:
            raise CompileError(
                f"the filter is not stable: a pole has radius {radius:.6g} in float32",
                where=place(node),
                hint="a cut-off too near zero or half the sample rate, or too high a quality",
            )


def warn_of_imprecision(module: torch.nn.Module) -> None:
    """Warn of filters in direct form whose float32 answer is far from the exact one.

    The error is measured: noise and a step through the filter as it will run, against the same
    system in float64 and in state-variable form.
    """
    for path, inner in module.named_modules():
        if not isinstance(inner, Filter) or inner.kind != "sos":
            continue
        with torch.no_grad():
            c = inner.coefficients().cpu()
            if float((1 - poles(c[..., 3], c[..., 4])).abs().min()) > _SUSPECT:
                continue
            error = _float32_error(c)
        if error > _TOLERATED:
            warnings.warn(
                f"{path or type(inner).__name__}: in direct form and float32 this filter is off by "
                f'{100 * error:.2g} %; form="svf" computes the same filter precisely',
                PrecisionWarning,
                stacklevel=5,  # the user's call of `compile`
            )


def _float32_error(c: torch.Tensor) -> float:
    """Largest error, relative to the largest output, over what takes the longest to settle."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(_TRIED_SAMPLES, generator=generator, dtype=torch.float64)
    x = x.expand(*(c.shape[0] if c.dim() == 3 else 1,), -1)
    state = x.new_zeros(x.shape[0], c.shape[-2], 2)
    exact, _ = relax_ops.svf(x, as_svf(c), state)
    found, _ = relax_ops.sos(x.float(), c.float(), state.float())
    return float((found - exact).abs().max() / exact.abs().max())


def sample_rate(module: torch.nn.Module) -> float | None:
    """The sample rate of the input: that of the first block which knows it.

    Raises:
        CompileError: Blocks disagree, and no decimation explains it.
    """
    try:
        return input_rate_hz(module)
    except ParameterError as error:
        raise CompileError(error.message, where=error.where, hint=error.hint) from error
