"""The report's pictures: pipeline and kernels, memory over a block, time of blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from microddsp.reporting.marks import (
    binary_steps,
    colour,
    count,
    element,
    fitting,
    group,
    hertz,
    nbytes,
    picture,
    steps,
    text,
)

Data = Mapping[str, Any]
WIDTH = 1080.0
# More rows or bars than these nobody reads; the JSON has all.
MOST_UNITS, MOST_BARS = 250, 540
_ROW, _BOX = 36.0, 26.0


def pipeline_picture(graph: Data, model: str) -> Markup:
    """One row for each unit, arrows between them; at the right the kernels that they became."""
    units = graph["units"][:MOST_UNITS]
    made = {unit["unit"]: unit["name"] for unit in graph["outputs"]}
    rails = _rails(units)
    left = 26.0 + 12.0 * max((rail for _, _, rail in rails), default=0)
    box, right = 320.0, left + 320.0 + 240.0
    parts = [_edge(first, last, rail, left) for first, last, rail in rails]
    parts += [
        _unit_row(i, unit, left, box, made.get(i, ""), graph["calls"])
        for i, unit in enumerate(units)
    ]
    parts += _kernel_bars(graph["calls"], len(units), right, model)
    height = _ROW * len(units) + 12.0
    return picture(WIDTH, height, parts, "pipeline")


def _y(row: int) -> float:
    return 6.0 + _ROW * row


def _rails(units: Sequence[Data]) -> list[tuple[int, int, int]]:
    """(from, to, rail) of every arrow; rail 0 goes straight down to the next row."""
    found: list[tuple[int, int, int]] = []
    busy: list[int] = []
    edges = sorted((i, j) for j, unit in enumerate(units) for i in unit["inputs"] if i < len(units))
    for first, last in edges:
        if last == first + 1:
            found.append((first, last, 0))
            continue
        rail = next((r for r, end in enumerate(busy) if end <= first), len(busy))
        busy[rail : rail + 1] = [last]
        found.append((first, last, min(rail, 14) + 1))
    return found


def _edge(first: int, last: int, rail: int, left: float) -> Markup:
    top, bottom = _y(first) + _BOX, _y(last)
    if rail == 0:
        x = left + 18.0
        return element("path", d=f"M{x} {top}V{bottom - 1}", class_="edge", marker_end="url(#tip)")
    x, start, end = left - 8.0 - 12.0 * (rail - 1), _y(first) + _BOX / 2, bottom + _BOX / 2
    curve = f"M{left} {start}H{x + 6}Q{x} {start} {x} {start + 6}V{end - 6}"
    curve += f"Q{x} {end} {x + 6} {end}H{left - 1}"
    return element("path", d=curve, class_="edge", marker_end="url(#tip)")


def _unit_row(
    i: int, unit: Data, left: float, width: float, output: str, calls: Sequence[Data]
) -> Markup:
    y, own = _y(i), unit["calls"]
    shape = "×".join(map(str, unit["shape"])) or "scalar"
    rate = f" · {hertz(unit['rate_hz'])}" if unit["rate_hz"] else ""
    name, kind = unit["path"] or unit["kind"], unit["kind"] if unit["path"] else ""
    about = "\n".join(
        [
            f"{name} {kind}",
            f"operators: {', '.join(unit['operators']) or '-'}",
            f"states: {', '.join(unit['states']) or 'none'}",
            f"kernels: {', '.join(calls[c]['kernel'] for c in own) or 'none'}",
        ]
    )
    shades = {"input": "unit input"}
    parts = [
        element("title", about),
        element(
            "rect", x=left, y=y, width=width, height=_BOX, rx=6,
            class_=shades.get(unit["kind"], "unit"),
        ),
    ]  # fmt: skip
    if own:
        parts.append(
            element("rect", x=left, y=y, width=5.0, height=_BOX, rx=2, fill=colour(own[0]))
        )
    room = width - 24.0
    kind_room = min(len(kind) * 7.0, room * 0.5)
    parts.append(text(left + 14, y + 17.5, name, width=room - kind_room - 8, class_="name"))
    parts.append(
        text(left + width - 10, y + 17.5, kind, width=room * 0.5, class_="soft", text_anchor="end",
             font_size=11)
    )  # fmt: skip
    parts.append(text(left + width + 14, y + 17.5, f"{shape}{rate}", width=190.0, class_="mono"))
    if output:
        label = f"→ {output}"
        parts.append(
            text(left + width + 228, y + 17.5, label, width=110.0, class_="out", text_anchor="end")
        )
    return group(parts)


def _kernel_bars(calls: Sequence[Data], rows: int, left: float, model: str) -> list[Markup]:
    """Each call beside the rows that it computes, in lanes where rows meet."""
    parts: list[Markup] = []
    lanes: list[int] = []
    spans = [(min(c["units"]), max(c["units"]), i) for i, c in enumerate(calls) if c["units"]]
    placed: list[tuple[int, int, int, int]] = []
    for first, last, i in sorted(spans):
        if first >= rows:
            continue
        lane = next((n for n, end in enumerate(lanes) if end < first), len(lanes))
        lanes[lane : lane + 1] = [last]
        placed.append((first, min(last, rows - 1), i, lane))
    width = (WIDTH - left - 4.0) / max(1, len(lanes))
    for first, last, i, lane in placed:
        top, bottom = _y(first), _y(last) + _BOX
        beside = [n for a, b, _, n in placed if n > lane and a <= last and first <= b]
        x, name = left + width * lane, calls[i]["kernel"].removeprefix(f"{model}_")
        room = width * (min(beside, default=len(lanes)) - lane) - 8
        inner = [
            element("title", f"call {i}: {calls[i]['kernel']}\n{', '.join(calls[i]['places'])}"),
            element(
                "rect",
                x=x,
                y=top,
                width=max(room, 3.0),
                height=bottom - top,
                rx=6,
                fill=colour(i),
                fill_opacity="0.16",
                stroke=colour(i),
                stroke_opacity="0.7",
            ),
        ]
        if room > 40:
            middle = (top + bottom) / 2 + 4
            inner.append(text(x + 10, middle, name, width=room - 18, class_="name", font_size=11))
        parts.append(group(inner))
    return parts


def memory_picture(memory: Data, calls: Sequence[Data], model: str) -> Markup:
    """The arena: from which call to which each buffer lives, and where it lies."""
    buffers, size = memory["buffers"], max(memory["arena_bytes"], 1)
    last_step = max([b["last"] for b in buffers] + [c["last"] for c in calls], default=0)
    spans = [(c["first"], c["last"]) for c in calls] or [(0, last_step)]
    left, top, height = 66.0, 14.0, 300.0
    width = WIDTH - left - 12.0
    wide = width / len(spans)

    def x(step: float) -> float:
        """Calls are equally wide, whatever number of steps they have."""
        for i, (first, last) in enumerate(spans):
            if step < last + 1:
                return left + wide * (i + max(0.0, step - first) / (last + 1 - first))
        return left + width

    def y(offset: float) -> float:
        return top + height * (1 - offset / size)

    parts: list[Markup] = []
    for i in range(len(spans)):
        if i % 2:
            parts.append(element("rect", x=left + wide * i, y=top, width=wide, height=height,
                                 class_="stripe"))  # fmt: skip
    for at in binary_steps(size, 7):
        parts.append(element("path", d=f"M{left} {y(at):.1f}H{left + width}", class_="grid"))
        parts.append(text(left - 8, y(at) + 4, nbytes(at), class_="tick", text_anchor="end"))
    names: list[Markup] = []  # above all the buffers: where one is computed in place, two overlap
    for i, b in enumerate(buffers):
        begin, end = x(b["first"]), x(b["last"] + 1)
        high = max(2.0, y(b["offset"]) - y(b["offset"] + b["nbytes"]))
        words = f"{b['name']}  {nbytes(b['nbytes'])}"
        about = (
            f"{b['name']}: {b['nbytes']} bytes at {b['offset']}, steps {b['first']} to {b['last']}"
        )
        inner = [
            element("title", about),
            element("rect", x=begin + 0.5, y=y(b["offset"] + b["nbytes"]) + 0.5,
                    width=max(2.0, end - begin - 1), height=max(1.5, high - 1), rx=3,
                    fill=colour(i), fill_opacity="0.72"),
        ]  # fmt: skip
        if high > 15 and fitting(words, end - begin - 10, 11):
            middle = y(b["offset"] + b["nbytes"] / 2) + 4
            names.append(
                text(begin + 7, middle, words, width=end - begin - 10, class_="on", font_size=11)
            )
        parts.append(group(inner))
    parts += names
    parts += _call_axis(calls, left, wide, top + height, model)
    return picture(
        WIDTH,
        top + height + (16.0 if not calls else 30.0 if wide >= 60 else 56.0),
        parts,
        "arena over a block",
    )


def _call_axis(
    calls: Sequence[Data], left: float, wide: float, y: float, model: str
) -> list[Markup]:
    """Names of kernels under their calls, turned where they are many."""
    parts = [element("path", d=f"M{left} {y}H{WIDTH - 12}", class_="axis")]
    every = -(-len(calls) // 60) if calls else 1
    for i, call in enumerate(calls):
        if i % every:
            continue
        name = call["kernel"].removeprefix(f"{model}_") or "copy"
        x = left + wide * (i + 0.5)
        about = element("title", f"call {i}: {call['kernel'] or 'copy'}")
        if wide >= 60:
            words = text(x, y + 18, name, width=wide - 6, text_anchor="middle", font_size=11)
        else:
            short = name.split("_")[0] if name != "copy" else name
            words = text(x, y + 12, short, text_anchor="end", font_size=10,
                         transform=f"rotate(-55 {x:.1f} {y + 12:.1f})")  # fmt: skip
        parts.append(group([about, words], class_="tick"))
    return parts


def state_picture(memory: Data) -> Markup:
    """The state struct as one bar: its members in their order."""
    fields = [f for f in memory["states"] if f["nbytes"]]
    size = max(memory["state_bytes"], 1)
    left, wide = 4.0, WIDTH - 8.0
    head = fields[0]["offset"] if fields else size
    rows = [{"name": "header", "offset": 0, "nbytes": head}, *fields]
    parts = [element("rect", x=left, y=4, width=wide, height=44, rx=6, class_="unit")]
    for i, f in enumerate(rows):
        x, w = left + wide * f["offset"] / size, wide * f["nbytes"] / size
        inner = [
            element("title", f"{f['name']}: {f['nbytes']} bytes at {f['offset']}"),
            element("rect", x=x + 0.5, y=4.5, width=max(1.0, w - 1), height=43, rx=3,
                    fill=colour(i - 1) if i else "var(--faint)", fill_opacity="0.72" if i else "1"),
        ]  # fmt: skip
        if w > 30:
            inner.append(text(x + 6, 23, f["name"], width=w - 8, class_="on" if i else "soft",
                              font_size=11))  # fmt: skip
            inner.append(text(x + 6, 39, nbytes(f["nbytes"]), width=w - 8,
                              class_="on" if i else "soft", font_size=11))  # fmt: skip
        parts.append(group(inner))
    return picture(WIDTH, 52, parts, "state")


def blocks_picture(time: Data) -> Markup:
    """What each block takes, the worst one marked; of many blocks the worst of each few."""
    values, worst = time["blocks"], time["worst"]["index"]
    few = -(-len(values) // MOST_BARS)
    bars = [max(values[i : i + few]) for i in range(0, len(values), few)]
    left, top, height = 76.0, 16.0, 150.0
    width = WIDTH - left - 12.0
    highest = max(max(values), 1)
    wide = width / len(bars)
    parts = []
    for at in steps(0, highest, 5):
        y = top + height * (1 - at / highest)
        parts.append(element("path", d=f"M{left} {y:.1f}H{left + width}", class_="grid"))
        parts.append(text(left - 8, y + 4, count(at), class_="tick", text_anchor="end"))
    for i, value in enumerate(bars):
        high = height * value / highest
        marked = worst // few == i
        parts.append(
            element(
                "rect",
                element("title", f"block {i * few}: {count(value)} {time['unit']}"),
                x=left + wide * i + min(1.0, wide * 0.1),
                y=top + height - high,
                width=max(0.8, wide - min(2.0, wide * 0.2)),
                height=high,
                fill="var(--worst)" if marked else "var(--bar)",
            )
        )
    parts.append(element("path", d=f"M{left} {top + height}H{left + width}", class_="axis"))
    for at in steps(0, len(values) - 1, 11) if len(values) > 1 else [0.0]:
        x = left + wide * (at / few + 0.5)
        parts.append(text(x, top + height + 16, f"{at:.0f}", class_="tick", text_anchor="middle"))
    return picture(WIDTH, top + height + 24, parts, "time of each block")
