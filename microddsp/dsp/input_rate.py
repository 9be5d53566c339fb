"""At which sample rate a whole module runs."""

from __future__ import annotations

import math

import torch

from microddsp.dsp.block import Block
from microddsp.dsp.decimate import Decimate
from microddsp.errors import ParameterError


def input_rate_hz(module: torch.nn.Module) -> float | None:
    """The sample rate of the input: the highest that a block has; None: no block knows one.

    Raises:
        ParameterError: Blocks disagree, and no decimation explains it.
    """
    rates = [
        (path, inner.sample_rate_hz)
        for path, inner in module.named_modules()
        if isinstance(inner, Block) and inner.sample_rate_hz is not None
    ]
    if not rates:
        return None
    factors = [inner.factor for inner in module.modules() if isinstance(inner, Decimate)]
    allowed = {1.0}
    for factor in factors:
        allowed |= {share * factor for share in allowed}
    fastest, highest = max(rates, key=lambda pair: pair[1])
    for path, rate in rates:
        if not any(math.isclose(highest / rate, share, rel_tol=1e-6) for share in allowed):
            raise ParameterError(
                f"sample rates are at odds: {fastest} has {highest:g} Hz, {path} has {rate:g} Hz",
                where=path,
                hint="give both the same sample_rate_hz, or put a Decimate between them",
            )
    return highest
