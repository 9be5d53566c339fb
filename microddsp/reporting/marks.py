"""What all pictures are drawn with: SVG elements with escaped text, colours, numbers for people."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape

COLOURS = (
    "#4269d0",
    "#e8930c",
    "#d6453d",
    "#2a9d8f",
    "#8b5fbf",
    "#3c9d3c",
    "#d2689f",
    "#5aa0d8",
    "#9c6b4e",
    "#7d8794",
)
# Of a monospaced letter of 1 px: what DejaVu, Menlo and Consolas have.
_LETTER = 0.61


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def element(tag: str, content: str = "", **attributes: object) -> Markup:
    """`class_` is class, `stroke_width` is stroke-width. Content that is no Markup is escaped."""
    given = Markup("").join(
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), _plain(value))
        for name, value in attributes.items()
        if value is not None
    )
    name = Markup(tag)
    return Markup("<{0}{1}>{2}</{0}>").format(name, given, escape(content))


def text(x: float, y: float, words: str, *, width: float | None = None, **given: object) -> Markup:
    """Words, cut to `width` pixels; the whole is then shown by the pointer."""
    size = float(str(given.pop("font_size", 12)))
    if size != 12:
        given["style"] = f"font-size:{size:g}px"  # an attribute would yield to the style sheet
    shown = words if width is None else fitting(words, width, size)
    inner = escape(shown) + (element("title", words) if shown != words else Markup(""))
    return element("text", inner, x=x, y=y, **given)


def fitting(words: str, width: float, size: float = 12) -> str:
    """The words, or their ends around an ellipsis."""
    letters = int(width / (size * _LETTER))
    if len(words) <= letters:
        return words
    if letters < 3:
        return ""
    head = (letters - 1 + 1) // 2
    return f"{words[:head]}…{words[len(words) - (letters - 1 - head) :]}"


def length(words: str, size: float = 12) -> float:
    """How wide they are."""
    return len(words) * size * _LETTER


def group(parts: Iterable[Markup], **given: object) -> Markup:
    return element("g", Markup("\n").join(parts), **given)


def picture(width: float, height: float, parts: Iterable[Markup], title: str) -> Markup:
    """An SVG that shrinks to the page's width."""
    inner = Markup("\n").join([element("title", title), *parts])
    return element(
        "svg",
        inner,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_plain(width)} {_plain(height)}",
        width=width,
        height=height,
        role="img",
    )


def nbytes(count: float) -> str:
    """`812 B`, `6.3 KiB`."""
    if count < 1024:
        return f"{count:.0f} B"
    return f"{count / 1024:.3g} KiB" if count < 2**20 else f"{count / 2**20:.3g} MiB"


def count(value: float) -> str:
    """`12 345`, with thin spaces."""
    whole = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"
    return whole.replace(",", "\u202f")


def hertz(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.4g} MHz"
    return f"{value / 1e3:.4g} kHz" if value >= 1e3 else f"{value:.4g} Hz"


def seconds(value: float) -> str:
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * factor >= 1 or unit == "µs":
            return f"{value * factor:.3g} {unit}"
    return ""


def percent(share: float) -> str:
    return f"{100 * share:.3g} %" if share >= 0.001 else f"{100 * share:.2g} %"


def steps(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two, at most so many."""
    span = high - low
    if span <= 0:
        return [low]
    unit = 10.0 ** len(str(int(span))) / 1e6
    while True:
        for factor in (1, 2, 5):
            step = unit * factor
            first = -(-low // step) * step
            if (high - first) // step < most:
                return [first + i * step for i in range(int((high - first) / step + 1e-9) + 1)]
        unit *= 10


def binary_steps(high: int, most: int) -> list[int]:
    """0 and multiples of a power of two, at most so many."""
    step = 1
    while high // step + 1 > most:
        step *= 2
    return list(range(0, high + 1, step))


def _plain(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
