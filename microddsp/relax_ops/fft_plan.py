"""How a real Fourier transform is cut into passes, and the constants of each.

n real samples are n / 2 complex ones: z[k] = x[2k] + i x[2k+1]. Their transform is made by passes
of radix 8, 4 or 2 (decimation in time), and a last pass of radix 4 that also separates the spectra
of even and odd samples. All passes work in place; only the first reads elsewhere.

Source: J. W. Cooley and J. W. Tukey, Math. Comp. 19 (1965); H. V. Sorensen and others, "Real-Valued
Fast Fourier Transform Algorithms", IEEE Trans. ASSP 35 (1987).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from microddsp.relax_ops.choices import choose

SHORTEST, LONGEST = 8, 4096
LAST = 4


def is_fast(n: int) -> bool:
    """Whether there is a fast transform of this length for devices."""
    return SHORTEST <= n <= LONGEST and n & (n - 1) == 0


@dataclass(frozen=True, slots=True)
class Pass:
    """`radix` transforms of `span` points become one of radix * span, all over the signal."""

    radix: int
    span: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Passes of the transform of n real samples, without the last."""

    n: int
    passes: tuple[Pass, ...]

    @property
    def points(self) -> int:
        """Complex points."""
        return self.n // 2

    @property
    def span(self) -> int:
        """Points of each of the four transforms that the last pass joins."""
        return self.points // LAST

    @property
    def halves(self) -> bool:
        """Whether there is a second pass, which takes a factor of 0.5 at the least cost."""
        return len(self.passes) > 1

    def twiddles(self, *, halved: bool) -> list[np.ndarray]:
        """One table for each pass after the first, and one for the last pass (if it has any).

        A pass has, for j from 0 below its span, exp(-2 pi i j k / (radix * span)) for k from 1; the
        last has, for j from 1 to span / 2, three such factors and two of the n-point transform, at
        j and j + span: all others of it are these, turned or mirrored. Unless the signal is
        `halved` the second pass's are multiplied by 0.5, or these two where there is none.
        """
        tables: list[np.ndarray] = []
        for one in self.passes[1:]:
            j, k = np.meshgrid(np.arange(one.span), np.arange(1, one.radix), indexing="ij")
            scale = np.float32(1.0 if halved or tables else 0.5)
            tables.append(_turns(j * k, one.radix * one.span) * scale)
        if self.span > 1:
            j = np.arange(1, self.span // 2 + 1)[:, None]
            inner = _turns(j * np.arange(1, LAST), self.points)
            outer = _turns(j + np.array([0, self.span]), self.n)
            scale = np.float32(1.0 if halved or self.halves else 0.5)
            tables.append(np.concatenate([inner, outer * scale], 1))
        return tables


def _turns(numerator: np.ndarray, denominator: int) -> np.ndarray:
    """exp(-2 pi i a / b) as (rows, 2 * columns) of real and imaginary parts, float32."""
    angle = -2 * math.pi * (numerator % denominator) / denominator
    both = np.stack([np.cos(angle), np.sin(angle)], -1)
    return np.ascontiguousarray(both.reshape(len(numerator), -1).astype("float32"))


def _all_radices(product: int) -> list[str]:
    """All orders of passes, but none with more than one that is much too small."""
    found: list[str] = []

    def more(before: list[int], left: int) -> None:
        if left == 1:
            found.append(".".join(map(str, before)))
        for radix in (8, 4, 2):
            if left % radix == 0 and (radix > 2 or 2 not in before or product <= 16):
                more([*before, radix], left // radix)

    more([], product)
    return found


def plan(n: int) -> Plan:
    """Radix 8 as often as possible, 4 rather than 2: the fewest loads and stores."""
    eights, left = divmod(int(math.log2(n)) - 3, 3)
    if left == 1 and eights:
        radices = [8] * (eights - 1) + [4, 4]
    else:
        radices = [8] * eights + [1 << left] * (left > 0)
    usual = ".".join(map(str, radices))
    chosen = str(choose("radices", _all_radices(n // (2 * LAST)), usual))
    radices = [int(radix) for radix in chosen.split(".") if radix]
    passes, span = [], 1
    for radix in radices:
        passes.append(Pass(radix, span))
        span *= radix
    return Plan(n, tuple(passes))
