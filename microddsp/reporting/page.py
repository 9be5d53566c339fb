"""The report as one HTML page: the summary, the tables' rows, the template."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from microddsp.reporting import curves, pictures
from microddsp.reporting.marks import colour, count, hertz, nbytes, percent, seconds

Data = Mapping[str, Any]
_HERE = Path(__file__).parent
# Of these tables the page shows so many rows and sums up the rest.
MOST_SYMBOLS, MOST_RESPONSES = 28, 24


def render(data: Data) -> str:
    """HTML with everything inside. Every name is escaped."""
    graph, memory = data["graph"], data["memory"]
    calls = graph["calls"] if graph else []
    drawn: dict[str, Markup] = {}
    if graph:
        drawn["pipeline"] = pictures.pipeline_picture(graph, data["model"])
    if memory["buffers"]:
        drawn["arena"] = pictures.memory_picture(memory, calls, data["model"])
    if memory["states"]:
        drawn["state"] = pictures.state_picture(memory)
    if data["time"] and len(data["time"]["blocks"]) > 1:
        drawn["blocks"] = pictures.blocks_picture(data["time"])
    heard = data["responses"][:MOST_RESPONSES]
    return _template().render(
        data=data,
        cards=_cards(data),
        drawn=drawn,
        responses=[(r, curves.magnitude_picture(r), curves.delay_picture(r)) for r in heard],
        unseen=len(data["responses"]) - len(heard),
        sections=_sections(memory),
        symbols=_symbols(memory),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": nbytes,
        "count": count,
        "hertz": hertz,
        "colour": colour,
        "percent": percent,
        "seconds": seconds,
    }
    return environment.get_template("page.html.j2")


def _cards(data: Data) -> list[dict[str, str]]:
    """What an engineer looks at first."""
    memory, time, load = data["memory"], data["time"], data["load"]
    limits = {row["key"]: row for row in data["budget"]}
    cards = []

    def card(title: str, value: str, about: str, key: str = "", state: str = "") -> None:
        limit = limits.get(key)
        if limit is not None:
            state = "bad" if limit["used"] > 1 else "good"
            about = f"{percent(limit['used'])} of the budget; {about}"
        cards.append({"title": title, "value": value, "about": about, "state": state})

    known = not memory["missing"]
    tables = sum(s for n, s in memory.get("sections", {}).items() if ".text" not in n)
    card(
        "Flash",
        nbytes(memory["flash_bytes"]) if known else "-",
        f"code and {nbytes(tables)} of tables" if known else "not measured",
        "flash",
    )
    card(
        "RAM",
        nbytes(memory["ram_bytes"]),
        f"state {nbytes(memory['state_bytes'])}, arena {nbytes(memory['arena_bytes'])}",
        "ram",
    )
    used = f"; {nbytes(time['stack_used_bytes'])} used on {time['board']}" if time else ""
    card("Stack", nbytes(memory["stack_bytes"]) if known else "-", f"deepest path{used}", "stack")
    card(*_load_card(load), key="load")
    if time:
        worst = time["worst"]
        card(
            time["unit"].capitalize(),
            count(time["median"]),
            f"a block; worst {count(worst['count'])}, block {worst['index']}",
        )
    if data["latency"]:
        late = data["latency"]
        value = seconds(late["seconds"]) if late["seconds"] else f"{late['samples']:.4g}"
        number = f"{late['samples']:.4g} " if late["seconds"] else ""
        card("Latency", value, f"{number}samples, the block's own wait included")
    card(*_error_card(data["verification"]))
    return cards


def _load_card(load: Data) -> tuple[str, str, str]:
    if load["share"] is not None:
        worst = f", worst block {percent(load['worst_share'])}" if load["worst_share"] else ""
        return "Load", percent(load["share"]), f"at {hertz(load['clock_hz'])}{worst}"
    return "Load", "-", "not known"


def _error_card(verification: Data | None) -> tuple[str, str, str, str, str]:
    if verification is None:
        return "Error", "-", "no PyTorch pipeline given", "", ""
    worst = max((o["max_rel_error"] or 0.0 for o in verification["outputs"]), default=0.0)
    wrong = sum(o["mismatches"] for o in verification["outputs"])
    words = "of the largest value, against PyTorch" if not wrong else f"{wrong} elements differ"
    state = "good" if verification["passed"] else "bad"
    return "Error", f"{worst:.2g}" if worst else "0", words, "", state


def _sections(memory: Data) -> list[dict[str, Any]]:
    """Sections by what they are, each with what its symbols take and what is left."""
    kinds = {"text": 0, "rodata": 0, "data": 0, "bss": 0}
    for name, size in memory.get("sections", {}).items():
        kind = "text" if ".text" in name else "bss" if name.startswith(".bss") else "rodata"
        kinds["data" if name.startswith(".data") else kind] += size
    whole = max(1, sum(kinds.values()))
    return [
        {"name": name, "nbytes": size, "share": size / whole, "colour": colour(i)}
        for i, (name, size) in enumerate(kinds.items())
        if size
    ]


def _symbols(memory: Data) -> list[dict[str, Any]]:
    """The largest ones; then the others together; then what no symbol covers."""
    rows = list(memory.get("symbols", ()))
    shown, rest = rows[:MOST_SYMBOLS], rows[MOST_SYMBOLS:]
    flash = sum(memory.get("sections", {}).values())
    if rest:
        words = f"{len(rest)} smaller ones"
        shown.append({"name": words, "section": "", "nbytes": sum(r["nbytes"] for r in rest)})
    left = flash - sum(r["nbytes"] for r in rows)
    if left > 0:
        shown.append({"name": "without a symbol", "section": "", "nbytes": left})
    largest = max((r["nbytes"] for r in shown), default=1)
    return [row | {"share": row["nbytes"] / max(largest, 1)} for row in shown]
