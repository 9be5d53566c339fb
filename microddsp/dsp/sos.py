"""A cascade of second-order sections from scipy's coefficients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from microddsp.dsp.filter import Filter, as_svf, choose_form, exact, form_name, poles
from microddsp.errors import ParameterError

# Room between a start value and the edge of stability, so that its logit is finite.
_EDGE = 1e-14


class SOS(Filter):
    """Second-order sections with learnable coefficients that stay stable.

    Feedback coefficients live in the stability triangle |a2| < 1, |a1| < 1 + a2: a2 is the
    hyperbolic tangent of one parameter, a1 that of another times 1 + a2. Numerators are free.

    Args:
        sos: (sections, 6) as scipy gives it: b0 b1 b2 a0 a1 a2; a0 is divided out.
        sample_rate_hz: Samples per second.
        form: "direct", "svf", or "auto": state-variable if a pole is below 1/500 of the sample
            rate. The system is the same.
        initial: "zero" or "first_sample".

    Raises:
        ParameterError: Wrong shape, not finite, a0 = 0, or unstable.
    """

    def __init__(
        self,
        sos: np.ndarray | Sequence[Sequence[float]],
        *,
        sample_rate_hz: float,
        form: str = "auto",
        initial: str = "zero",
    ) -> None:
        super().__init__(sample_rate_hz, initial)
        table = torch.as_tensor(np.asarray(sos, dtype="float64"))
        if table.dim() != 2 or table.shape[1] != 6 or not table.shape[0]:
            raise ParameterError(
                f"sos is (sections, 6) as scipy gives it, got {tuple(table.shape)}", where="SOS"
            )
        if not bool(torch.isfinite(table).all()) or not bool((table[:, 3] != 0).all()):
            raise ParameterError("sos is not finite, or has a0 = 0", where="SOS")
        table = table / table[:, 3:4]
        a1, a2 = table[:, 4], table[:, 5]
        if not bool(((a2.abs() < 1) & (a1.abs() < 1 + a2)).all()):
            raise ParameterError("sos has a pole on or outside the unit circle", where="SOS")
        self.sections = int(table.shape[0])
        # a pole's distance from 1: its angle if it is near the circle, its decay if it is real
        frequency_hz = (1 - poles(a1, a2)).abs() * sample_rate_hz / (2 * torch.pi)
        self.kind = choose_form(form, frequency_hz, sample_rate_hz, True, "SOS")
        self.numerator = torch.nn.Parameter(table[:, :3].float())
        limit = 1 - _EDGE
        self.raw_a2 = torch.nn.Parameter(torch.atanh(a2.clamp(-limit, limit)))
        self.raw_a1 = torch.nn.Parameter(torch.atanh((a1 / (1 + a2)).clamp(-limit, limit)))

    def coefficients(self) -> Tensor:
        a2 = torch.tanh(exact(self.raw_a2))
        a1 = torch.tanh(exact(self.raw_a1)) * (1 + a2)
        sections = torch.cat([exact(self.numerator), torch.stack([a1, a2], -1)], -1)
        return as_svf(sections) if self.kind == "svf" else sections

    def extra_repr(self) -> str:
        return (
            f"sections={self.sections}, sample_rate_hz={self.sample_rate_hz:g}, "
            f"form={form_name(self.kind)}, initial={self.initial}"
        )
