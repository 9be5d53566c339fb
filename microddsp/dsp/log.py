"""Logarithms of powers: natural, or decibels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, positive
from microddsp.errors import ParameterError
from microddsp.relax_ops.logarithm import FULL, largest_error, terms_for


class Log(Block):
    """multiplier * ln(max(x + offset, amin) / reference) of (..., channels, bands, frames).

    Args:
        multiplier: Of the natural logarithm.
        offset: Added first; `Log(offset=1e-6, amin=1e-30)` is ln(x + 1e-6).
        amin: Least value that a logarithm is taken of, positive.
        reference: What gives 0.
        top_db: Per frame and channel nothing lies more than this below the largest band. (Over a
            whole recording, as torchaudio has it, no stream can know the largest.)

    Raises:
        ParameterError: amin, reference or top_db not positive, or anything not finite.
    """

    def __init__(
        self,
        *,
        multiplier: float = 1.0,
        offset: float = 0.0,
        amin: float = 1e-10,
        reference: float = 1.0,
        top_db: float | None = None,
        max_error: float | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("multiplier", multiplier), ("offset", offset)):
            if not math.isfinite(value):
                raise ParameterError(f"{name} must be finite, got {value}", where="Log")
        self.multiplier, self.offset = float(multiplier), float(offset)
        self.amin = float(positive("amin", amin, "Log"))
        if self.amin < _LEAST:
            raise ParameterError(f"amin must be at least {_LEAST:g}, got {amin}", where="Log")
        self.reference = float(positive("reference", reference, "Log"))
        self.top_db = None if top_db is None else float(positive("top_db", top_db, "Log"))
        self.terms = FULL
        if max_error is not None:
            self.terms = terms_for(float(positive("max_error", max_error, "Log")))

    @classmethod
    def decibels(
        cls,
        *,
        magnitude: bool = False,
        amin: float = 1e-10,
        reference: float = 1.0,
        top_db: float | None = None,
        max_error: float | None = None,
    ) -> Log:
        """10 log10 of powers, or 20 log10 of magnitudes: torchaudio's `amplitude_to_DB`."""
        multiplier = (20.0 if magnitude else 10.0) / math.log(10.0)
        return cls(
            multiplier=multiplier,
            amin=amin,
            reference=reference,
            top_db=top_db,
            max_error=max_error,
        )

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        shift = -self.multiplier * math.log(self.reference)
        y = relax_ops.logarithm(x, self.offset, self.amin, self.multiplier, shift, self.terms)
        if self.top_db is not None:
            y = torch.maximum(y, y.amax(-2, keepdim=True) - self.top_db)
        return y, state

    def extra_repr(self) -> str:
        top = "" if self.top_db is None else f", top_db={self.top_db:g}"
        if self.terms != FULL:
            top += f", error at most {largest_error(self.terms):.2g}"
        return (
            f"multiplier={self.multiplier:.6g}, offset={self.offset:g}, amin={self.amin:g}, "
            f"reference={self.reference:g}{top}"
        )


# The least normal float32: below it devices that flush subnormals would take the log of zero.
_LEAST = 1.1754943508222875e-38
