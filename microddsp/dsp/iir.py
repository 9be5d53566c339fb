"""Any recursive filter, from the two polynomials of its transfer function."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from microddsp.dsp.sos import SOS
from microddsp.errors import ParameterError


class IIR(SOS):
    """a[0] y[n] = b[0] x[n] + b[1] x[n-1] + ... - a[1] y[n-1] - ..., as `scipy.signal.lfilter`.

    It is kept as second-order sections: stable whatever is learned, and precise in float32, where
    the polynomials of a high order are not.

    Args:
        b, a: Numerator and denominator, as scipy gives them.
        sample_rate_hz: Samples per second.
        form, initial: As `SOS`.

    Raises:
        ParameterError: Empty or not finite, a[0] = 0, or unstable.
    """

    def __init__(
        self,
        b: np.ndarray | Sequence[float],
        a: np.ndarray | Sequence[float] = (1.0,),
        *,
        sample_rate_hz: float,
        form: str = "auto",
        initial: str = "zero",
    ) -> None:
        numerator, denominator = (np.asarray(v, dtype="float64") for v in (b, a))
        for name, values in (("b", numerator), ("a", denominator)):
            if values.ndim != 1 or not values.size or not np.isfinite(values).all():
                raise ParameterError(f"{name} is a list of finite numbers", where="IIR")
        if denominator[0] == 0.0 or not numerator.any():
            raise ParameterError("a[0] and some of b must not be zero", where="IIR")
        super().__init__(
            _sections(numerator, denominator),
            sample_rate_hz=sample_rate_hz,
            form=form,
            initial=initial,
        )


def _sections(b: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Sections of b/a; zeros of b at the front are delays, which scipy's pairing would drop."""
    from scipy.signal import tf2zpk, zpk2sos

    first = int(np.flatnonzero(b)[0])
    zeros, poles, gain = tf2zpk(b[first:] / a[0], a / a[0])
    # polynomials in z^-1: what one is longer than the other are roots at z = 0
    short = (len(b) - first) - len(a)
    zeros = np.concatenate([zeros, np.zeros(max(-short, 0))])
    poles = np.concatenate([poles, np.zeros(max(short, 0))])
    sections = zpk2sos(zeros, poles, gain)
    delay = np.array([[0.0, 1.0, 0.0, 1.0, 0.0, 0.0]])
    return np.concatenate([sections, delay.repeat(first, axis=0)])
