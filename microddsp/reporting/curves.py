"""Frequency responses as pictures: magnitude and group delay over a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from microddsp.reporting.marks import COLOURS, element, hertz, length, picture, steps, text

Data = Mapping[str, Any]
WIDTH, _HEIGHT, _LEFT, _TOP = 530.0, 210.0, 56.0, 20.0
_LOWEST_DB = 80.0
_TICK = 11.0  # the font's size, as the page says


def magnitude_picture(response: Data) -> Markup:
    """Decibels, down to 80 below the highest."""
    curves = [c["magnitude_db"] for c in response["channels"]]
    top = max(max(c) for c in curves)
    low = max(min(min(c) for c in curves), top - _LOWEST_DB)
    return _curves(response, curves, math.floor(low / 10) * 10, math.ceil(top / 5) * 5, "dB")


def delay_picture(response: Data) -> Markup:
    """Group delay in samples, as far as something comes through (40 dB below the highest)."""
    curves = []
    for c in response["channels"]:
        heard = max(c["magnitude_db"]) - 40
        curves.append(
            [
                d if m > heard else None
                for d, m in zip(c["group_delay"], c["magnitude_db"], strict=True)
            ]
        )
    known = sorted(value for curve in curves for value in curve if value is not None) or [0.0]
    low, high = min(0.0, known[0]), max(known[-1], 1.0)
    return _curves(response, curves, low, high * 1.05, "samples")


def _curves(
    response: Data, curves: Sequence[Sequence[float | None]], low: float, high: float, unit: str
) -> Markup:
    frequencies = response["frequencies"]
    width, height = WIDTH - _LEFT - 10, _HEIGHT - _TOP - 28
    first, last = math.log(frequencies[0]), math.log(frequencies[-1])
    high = high if high > low else low + 1

    def x(f: float) -> float:
        return _LEFT + width * (math.log(f) - first) / max(last - first, 1e-9)

    def y(value: float) -> float:
        return _TOP + height * (1 - (min(max(value, low), high) - low) / (high - low))

    parts = []
    for at in steps(low, high, 6):
        parts.append(element("path", d=f"M{_LEFT} {y(at):.1f}H{_LEFT + width}", class_="grid"))
        parts.append(text(_LEFT - 7, y(at) + 4, f"{at:g}", class_="tick", text_anchor="end"))
    for f, labelled in _decades(frequencies[0], frequencies[-1]):
        parts.append(element("path", d=f"M{x(f):.1f} {_TOP}V{_TOP + height}", class_="grid"))
        if labelled:
            words = hertz(f) if response["rate_hz"] else f"{f:g}"
            half = length(words, _TICK) / 2 + 1
            middle = min(max(x(f), half), WIDTH - half)  # whole, at an edge too
            parts.append(
                text(middle, _TOP + height + 17, words, class_="tick", text_anchor="middle")
            )
    for c, curve in enumerate(curves):
        parts.append(
            element(
                "path",
                element("title", f"channel {c}"),
                d=_path([(x(f), y(v)) if v is not None else None
                         for f, v in zip(frequencies, curve, strict=True)]),
                fill="none",
                stroke=_shade(c, len(curves)),
                stroke_width=2 if len(curves) <= 8 else 1.2,
            )
        )  # fmt: skip
    parts.append(
        text(
            _LEFT - 7,
            11,
            unit,
            class_="soft",
            font_size=11,
            text_anchor="end" if unit == "dB" else None,
        )
    )
    return picture(WIDTH, _HEIGHT, parts, f"{response['path']}, {unit}")


def _shade(channel: int, channels: int) -> str:
    """Few channels in colours that differ, a bank of filters along the rainbow."""
    if channels <= len(COLOURS):
        return COLOURS[channel]
    return f"hsl({260 - 260 * channel // (channels - 1)} 65% 52%)"


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    words, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        words.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
        pen = "L"
    return "".join(words)


def _decades(low: float, high: float) -> list[tuple[float, bool]]:
    """1, 2 and 5 of every decade; where there are many, only the decades have labels."""
    found = []
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        found += [(factor * 10.0**power, factor) for factor in (1, 2, 5)]
    inside = [(f, factor) for f, factor in found if low <= f <= high]
    all_of_them = len(inside) <= 9
    return [(f, all_of_them or factor == 1) for f, factor in inside]
