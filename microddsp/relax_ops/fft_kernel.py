"""The real Fourier transform on the device: butterflies in registers, passes in place.

The samples times a window go into the first pass, and what the caller wants of each bin (both
parts, a power) is made while the bin is in registers: neither a windowed signal nor, for powers, a
complex spectrum is ever written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from microddsp.relax_ops.convolution_kernel import loop
from microddsp.relax_ops.fft_plan import LAST, Pass, Plan

Value = Any  # a TIR expression; tvm has no types


class Complex(NamedTuple):
    """Two TIR values."""

    re: Value
    im: Value


# Stores bin k; the index is a TIR expression.
Store = Callable[[Value, Complex], None]
# Sample `inner + start` of the signal, windowed: inner is a TIR expression from 0 to below a limit.
Load = Callable[[Value, int, int], Value]
# Where a part (0 real, 1 imaginary) of complex point k lies in its buffer.
Place = Callable[[Value, int], "list[Value]"]


@contextmanager
def rows(shape: Sequence[int]) -> Iterator[list[Value]]:
    """Loops over all rows of a tensor with these leading dimensions; gives their indices."""
    with ExitStack() as stack:
        yield [stack.enter_context(loop(size)) for size in shape]


def bind(value: Value) -> Value:
    """A local variable: evaluated here, once."""
    from tvm.script.ir_builder import tirx as T

    return T.bind(value)


def _add(a: Complex, b: Complex) -> Complex:
    return Complex(bind(a.re + b.re), bind(a.im + b.im))


def _sub(a: Complex, b: Complex) -> Complex:
    return Complex(bind(a.re - b.re), bind(a.im - b.im))


def _add_turned(a: Complex, b: Complex) -> Complex:
    """a + i b."""
    return Complex(bind(a.re - b.im), bind(a.im + b.re))


def _sub_turned(a: Complex, b: Complex) -> Complex:
    """a - i b."""
    return Complex(bind(a.re + b.im), bind(a.im - b.re))


def _mul(w: Complex, v: Complex) -> Complex:
    return Complex(bind(w.re * v.re - w.im * v.im), bind(w.re * v.im + w.im * v.re))


def _mul_conj(w: Complex, v: Complex) -> Complex:
    """conj(w) v."""
    return Complex(bind(w.re * v.re + w.im * v.im), bind(w.re * v.im - w.im * v.re))


def _half() -> Value:
    from tvm import tirx

    return tirx.FloatImm("float32", 0.5)


def _radix2(v: Sequence[Complex]) -> list[Complex]:
    return [_add(v[0], v[1]), _sub(v[0], v[1])]


def _radix4(v: Sequence[Complex]) -> list[Complex]:
    a, b = _add(v[0], v[2]), _sub(v[0], v[2])
    c, d = _add(v[1], v[3]), _sub(v[1], v[3])
    return [_add(a, c), _sub_turned(b, d), _sub(a, c), _add_turned(b, d)]


def _radix8(v: Sequence[Complex]) -> list[Complex]:
    from tvm import tirx

    half = tirx.FloatImm("float32", 0.5**0.5)
    even, odd = _radix4(v[0::2]), _radix4(v[1::2])
    # odd[k] times exp(-2 pi i k / 8): an eighth of a turn is a sum and a difference, scaled
    one = Complex(bind((odd[1].re + odd[1].im) * half), bind((odd[1].im - odd[1].re) * half))
    three = Complex(bind((odd[3].im - odd[3].re) * half), bind((odd[3].re + odd[3].im) * half))
    low = [
        _add(even[0], odd[0]),
        _add(even[1], one),
        _sub_turned(even[2], odd[2]),
        Complex(bind(even[3].re + three.re), bind(even[3].im - three.im)),
    ]
    high = [
        _sub(even[0], odd[0]),
        _sub(even[1], one),
        _add_turned(even[2], odd[2]),
        Complex(bind(even[3].re - three.re), bind(even[3].im + three.im)),
    ]
    return low + high


_BUTTERFLIES = {2: _radix2, 4: _radix4, 8: _radix8}


class Transform:
    """Emits the transform of one row into the current TIR function.

    The buffer `points` holds the complex points as `place` says, `tables` are the buffers of
    `plan.twiddles`. `halved` says that `load` gives samples times 0.5, which saves multiplications
    in the last pass.
    """

    def __init__(
        self,
        plan: Plan,
        tables: Sequence[Any],
        load: Load,
        points: Any,
        place: Place,
        store: Store,
        *,
        halved: bool,
    ) -> None:
        self.plan, self.tables = plan, tables
        self.load, self.store = load, store
        self.to_halve = plan.halves and not halved
        self.halved = halved or self.to_halve
        self.points, self.place = points, place

    def emit(self) -> None:
        """All passes."""
        passes = self.plan.passes
        if passes:
            self._first(passes[0])
        for one, table in zip(passes[1:], self.tables, strict=False):
            self._inner(one, table)
        self._self_paired()
        if self.plan.span > 1:
            self._last(self.tables[-1])

    # ---- memory

    def _sample(self, inner: Value, start: int, limit: int) -> Complex:
        """Point inner + start, inner below the limit: two samples."""
        re, im = (bind(self.load(inner * 2, 2 * start + i, 2 * limit - 1)) for i in (0, 1))
        return Complex(re, im)

    def _get(self, k: Value) -> Complex:
        re, im = (bind(self.points[tuple(self.place(k, part))]) for part in (0, 1))
        return Complex(re, im)

    def _put(self, k: Value, value: Complex) -> None:
        from tvm.script.ir_builder import tirx as T

        for part in (0, 1):
            T.buffer_store(self.points, value[part], self.place(k, part))

    @staticmethod
    def _factors(table: Any, row: Value) -> list[Complex]:
        return [
            Complex(bind(table[row, 2 * i]), bind(table[row, 2 * i + 1]))
            for i in range(int(table.shape[1]) // 2)
        ]

    # ---- passes

    def _first(self, first: Pass) -> None:
        """Loops over the digits of the point, last radix outermost, so that results lie in order
        and no table of reversed bits is needed."""
        radices = [LAST, *(one.radix for one in self.plan.passes[:0:-1])]
        stride = self.plan.points // first.radix

        def nest(depth: int, source: Value, weight: int, group: Value) -> None:
            if depth < len(radices):
                radix = radices[depth]
                with loop(radix) as digit:
                    nest(
                        depth + 1,
                        digit * weight + source if depth else digit,
                        weight * radix,
                        group * radix + digit if depth else digit,
                    )
                return
            point = bind(source)
            values = [self._sample(point, stride * i, stride) for i in range(first.radix)]
            for i, value in enumerate(_BUTTERFLIES[first.radix](values)):
                self._put(group * first.radix + i, value)

        nest(0, 0, 1, 0)

    def _inner(self, one: Pass, table: Any) -> None:
        radix, span = one.radix, one.span
        with loop(self.plan.points // (radix * span)) as group, loop(span) as j:
            start = group * (radix * span) + j
            values = [self._get(start + span * i) for i in range(radix)]
            if self.to_halve and one is self.plan.passes[1]:
                values[0] = Complex(*(bind(part * _half()) for part in values[0]))
            factors = self._factors(table, j)
            turned = [_mul(w, v) for w, v in zip(factors, values[1:], strict=True)]
            for i, value in enumerate(_BUTTERFLIES[radix]([values[0], *turned])):
                self._put(start + span * i, value)

    def _self_paired(self) -> None:
        """The last pass at j = 0: no factors, and bins that are their own mirror images."""
        from tvm import tirx

        span, points = self.plan.span, self.plan.points
        z = _radix4(
            [
                self._get(span * i) if self.plan.passes else self._sample(0, i, 1)
                for i in range(LAST)
            ]
        )
        zero = tirx.FloatImm("float32", 0.0)
        whole = tirx.FloatImm("float32", 2.0)
        first, last = bind(z[0].re + z[0].im), bind(z[0].re - z[0].im)
        middle = Complex(z[2].re, bind(tirx.call_pure_extern("float32", "-", z[2].im)))
        if self.halved:
            first, last = bind(first * whole), bind(last * whole)
            middle = Complex(bind(middle.re * whole), bind(middle.im * whole))
        part = 0.5**0.5 if self.halved else 0.5**1.5
        eighth = Complex(tirx.FloatImm("float32", part), tirx.FloatImm("float32", -part))
        below, above = self._separate(z[1], z[3], eighth)
        self.store(0, Complex(first, zero))
        self.store(span, below)
        self.store(2 * span, middle)
        self.store(3 * span, above)
        self.store(points, Complex(last, zero))

    def _last(self, table: Any) -> None:
        """Two butterflies of radix 4, at j and span - j, hold four whole pairs of mirrored bins.

        At j = span / 2 both are the same one: its bins are stored twice, with equal values.
        """
        span = self.plan.span
        with loop(span // 2) as turn:
            w = self._factors(table, turn)
            j = turn + 1
            v = [self._get(j + span * i) for i in range(LAST)]
            a = _radix4([v[0], *(_mul(w[i], v[i + 1]) for i in range(3))])
            v = [self._get(span * (i + 1) - j) for i in range(LAST)]
            # the factors at span - j are those at j mirrored and turned by -i, -1, i
            t = [_mul_conj(w[i], v[i + 1]) for i in range(3)]
            p, q = _sub(v[0], t[1]), _add(v[0], t[1])
            c, d = _sub(t[0], t[2]), _add(t[0], t[2])
            b = [_sub_turned(p, c), _sub(q, d), _add_turned(p, c), _add(q, d)]
            u, s = w[3], w[4]
            for k, one, other, factor, mirrored in (
                (j, a[0], b[3], u, False),
                (j + span, a[1], b[2], s, False),
                (2 * span - j, b[1], a[2], u, True),
                (span - j, b[0], a[3], s, True),
            ):
                below, above = self._separate(one, other, factor, mirrored=mirrored)
                self.store(k, below)
                self.store(4 * span - k, above)

    def _separate(
        self, one: Complex, other: Complex, w: Complex, *, mirrored: bool = False
    ) -> tuple[Complex, Complex]:
        """Bins k and points - k of the real signal from those of the complex one, where w is
        exp(-2 pi i k / n), or that at n / 4 - k if `mirrored`; half of it unless `halved`."""
        # sums and differences of both spectra; the odd samples' one is still to be turned by w
        er, ei = bind(one.re + other.re), bind(one.im - other.im)
        s, q = bind(one.im + other.im), bind(one.re - other.re)
        if not self.halved:
            er, ei = bind(er * _half()), bind(ei * _half())
        if mirrored:
            re, im = bind(w.re * q + w.im * s), bind(w.im * q - w.re * s)
            return (
                Complex(bind(er - re), bind(ei + im)),
                Complex(bind(er + re), bind(im - ei)),
            )
        re, im = bind(w.re * s + w.im * q), bind(w.im * s - w.re * q)
        return Complex(bind(er + re), bind(ei + im)), Complex(bind(er - re), bind(im - ei))
