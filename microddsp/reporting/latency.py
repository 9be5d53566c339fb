"""How late an answer is: what filters, frames and blocks each add, along the longest way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from microddsp.dsp.framing import Overlapping
from microddsp.dsp.resample import Resample
from microddsp.outline import Outline

if TYPE_CHECKING:
    import torch

    from microddsp.micro.package.model import CompiledModel


def latency(
    model: CompiledModel, pipeline: torch.nn.Module, delays: Mapping[int, float | None]
) -> dict[str, Any] | None:
    """Samples of the input, and seconds where the rate is known.

    A frame counts from its middle to its last sample; a filter its group delay in the middle of
    its band. What is not linear (an envelope, a counter) has no delay of its own and is named in
    `not_counted`. A block is computed when its last sample is there: its first one waits
    `block - 1` samples more.

    Args:
        delays: Group delays of units, in samples of their own inputs.
    """
    outline, signature = model.outline, model.signature
    if outline is None:
        return None
    owners = modules_of(outline, pipeline)
    rows: dict[int, dict[str, Any]] = {}
    unknown = []
    for i, unit in enumerate(outline.units):
        found = _own(owners[i], delays.get(i)) if i in owners else None
        factor = _factor(outline, i, signature.block)
        if found is not None and found[0] and factor:
            rows[i] = {
                "unit": i,
                "path": unit.path,
                "kind": unit.kind,
                "why": found[1],
                "own_samples": found[0],
                "samples": found[0] * factor,
            }
        elif found is None and unit.states:
            unknown.append(unit.path or unit.kind)
    arrival = _arrivals(outline, {i: row["samples"] for i, row in rows.items()})
    way = _way(outline, arrival)
    signal = max((arrival[i] for i in outline.outputs), default=0.0)
    rate = signature.sample_rate_hz
    return {
        "rows": [rows[i] | {"on_longest_way": i in way} for i in sorted(rows)],
        "not_counted": unknown,
        "signal_samples": signal,
        "block_samples": signature.block - 1,
        "samples": signal + signature.block - 1,
        "seconds": (signal + signature.block - 1) / rate if rate else None,
        "signal_seconds": signal / rate if rate else None,
        "outputs": [
            {"name": spec.name, "samples": arrival[i]}
            for spec, i in zip(signature.outputs, outline.outputs, strict=False)
        ],
    }


def modules_of(outline: Outline, pipeline: torch.nn.Module) -> dict[int, torch.nn.Module]:
    """The module of each unit that is one: neither an input nor an operator in a forward."""
    known = dict(pipeline.named_modules())
    return {
        i: known[unit.path]
        for i, unit in enumerate(outline.units)
        if unit.inputs and unit.path in known and type(known[unit.path]).__name__ == unit.kind
    }


def _own(module: torch.nn.Module, group: float | None) -> tuple[float, str] | None:
    """Samples of its own input that a module is late, and why; None where nobody can tell."""
    if isinstance(module, Overlapping):
        return (module.length - 1) / 2, f"middle of a frame of {module.length}, hop {module.hop}"
    if isinstance(module, Resample):
        return (module.taps.shape[0] - 1) / 2 / module.up, f"{module.taps.shape[0]} symmetric taps"
    looks_ahead = getattr(module, "delay_samples", None)
    if isinstance(looks_ahead, int):
        return float(looks_ahead), "waits for what comes after"
    return None if group is None else (group, "group delay in the middle of the band")


def _factor(outline: Outline, index: int, block: int) -> float | None:
    """Samples of the model's input for one of a unit's own input."""
    counts = [outline.units[i].per_block for i in outline.units[index].inputs]
    known = [count for count in counts if count]
    return block / known[0] if known else None


def _arrivals(outline: Outline, added: Mapping[int, float]) -> list[float]:
    arrival: list[float] = []
    for i, unit in enumerate(outline.units):
        before = max((arrival[j] for j in unit.inputs), default=0.0)
        arrival.append(before + added.get(i, 0.0))
    return arrival


def _way(outline: Outline, arrival: list[float]) -> set[int]:
    """Units on the way that makes the last output late."""
    way: set[int] = set()
    at = max(outline.outputs, key=lambda i: arrival[i], default=None)
    while at is not None:
        way.add(at)
        at = max(outline.units[at].inputs, key=lambda j: arrival[j], default=None)
    return way
