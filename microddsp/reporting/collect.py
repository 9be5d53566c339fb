"""Everything that a report tells, as plain data. What cannot be told says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from microddsp.budget import LoadLimit, used_of
from microddsp.errors import BoardError, CompileError
from microddsp.micro.boards import Board, find_board
from microddsp.micro.cycles.load import MODELLED, noise_blocks
from microddsp.micro.timing import FunctionTime
from microddsp.signature import Signature
from microddsp.verification import VerificationReport, compare

if TYPE_CHECKING:
    import torch

    from microddsp.micro.package.model import CompiledModel

Data = dict[str, Any]
NOISE_BLOCKS = 64


def collect(
    model: CompiledModel,
    pipeline: torch.nn.Module | None,
    signals: Sequence[Any] | None,
    board: str | Board | None,
    limits: Mapping[str, int | LoadLimit],
) -> Data:
    """The content of a report; see `report`."""
    from microddsp import __version__

    chosen = find_board(board) if isinstance(board, str) else board
    source = "a recording" if signals is not None else f"noise, {NOISE_BLOCKS} blocks"
    given = signals if signals is not None else noise(model.signature)
    measured, checked = None, None
    if chosen is not None:
        measured, checked = _on_board(model, chosen, given, pipeline)
    elif pipeline is not None:
        checked = compare(pipeline, model, *given, locate=True)
    return {
        "microddsp": __version__,
        "model": model.name,
        "target": model.target.name,
        "digest": model.digest,
        "signature": _signature(model.signature),
        "signal": source if pipeline is not None or chosen is not None else "",
        "memory": _memory(model),
        "time": measured,
        "load": _load(model, chosen, measured, limits),
        "budget": [_limit(model, key, limit) for key, limit in limits.items()],
        "graph": _graph(model),
        "verification": checked.to_json() if checked else None,
        **_of_pipeline(model, pipeline),
    }


def noise(signature: Signature) -> list[np.ndarray]:
    """A signal for every input: blocks of the same noise on every run."""
    found = []
    for spec, arrays in zip(signature.inputs, noise_blocks(signature, NOISE_BLOCKS), strict=True):
        if len(spec.shape) != 2:
            found.append(arrays[0])
        elif spec.interleaved:
            found.append(np.concatenate(arrays).T)
        else:
            found.append(np.concatenate(arrays, -1))
    return found


def _signature(signature: Signature) -> Data:
    rate = signature.sample_rate_hz
    return signature.to_json() | {"block_s": signature.block / rate if rate else None}


def _memory(model: CompiledModel) -> Data:
    """Sizes from the object file; without the cross compiler only what the plan knows."""
    signature, outline = model.signature, model.outline
    data: Data = {
        "missing": "",
        "state_bytes": signature.state_bytes,
        "arena_bytes": signature.workspace_bytes,
        "ram_bytes": signature.state_bytes + signature.workspace_bytes,
        "buffers": [
            dict(zip(("name", "nbytes", "offset", "first", "last"), row, strict=True))
            for row in model.buffers
        ],
        "states": [
            {"name": f.name, "nbytes": f.nbytes, "offset": f.offset}
            for f in (outline.states if outline else ())
        ],
    }
    try:
        memory = model.memory
    except BoardError as error:
        return data | {"missing": error.message}
    largest = sorted(memory.symbols.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        {"name": name, "nbytes": size, "section": memory.placed[name]} for name, size in largest
    ]
    return data | {
        "flash_bytes": memory.flash_bytes,
        "stack_bytes": memory.stack_bytes,
        "outside": list(memory.outside),
        "sections": dict(memory.sections),
        "symbols": rows,
    }


def _on_board(
    model: CompiledModel, board: Board, signals: Sequence[Any], pipeline: torch.nn.Module | None
) -> tuple[Data, VerificationReport | None]:
    """Time of every block and every kernel, and the stack that was used; errors on the board."""
    from microddsp.micro.session import open_board

    checked = None
    with open_board(board, model, profile=board.serial is not None) as session:
        timing = session.time(*signals)
        blocks = session.time_blocks(*signals)
        kernels = session.profile(*signals)
        stack = session.stack_bytes()
        if pipeline is not None:
            checked = compare(pipeline, model, *signals, board=session, locate=True)
    worst = max(range(len(blocks)), key=lambda i: (blocks[i], -i))
    measured = {
        "board": board.name,
        "description": board.description,
        "unit": timing.unit,
        "clock_hz": board.clock_hz,
        "minimum": timing.count_min,
        "median": timing.count_median,
        "maximum": timing.count_max,
        "seconds_median": timing.seconds_median,
        "per_sample": timing.count_per_sample,
        "blocks": blocks,
        "worst": {
            "index": worst,
            "count": blocks[worst],
            "over_median": blocks[worst] / timing.count_median if timing.count_median else None,
        },
        "kernels": [kernel.to_json() | {"call": call} for kernel, call in _calls(model, kernels)],
        "stack_used_bytes": stack,
    }
    return measured, checked


def _calls(
    model: CompiledModel, kernels: Sequence[FunctionTime]
) -> list[tuple[FunctionTime, int | None]]:
    """The call that each part of a profile is of; None for the rest of `process`."""
    calls = len(model.outline.calls) if model.outline else 0
    fits = len(kernels) == calls + 1
    return [(k, i if fits and i < calls else None) for i, k in enumerate(kernels)]


def _load(
    model: CompiledModel,
    board: Board | None,
    measured: Data | None,
    limits: Mapping[str, int | LoadLimit],
) -> Data:
    """The share of the processor: cycles of a real board, else modelled ones of a Cortex-M4F."""
    limit = limits.get("load")
    clock = limit.clock_hz if isinstance(limit, LoadLimit) else board.clock_hz if board else None
    rate, block = model.signature.sample_rate_hz, model.signature.block
    data: Data = {"missing": "", "clock_hz": clock, "share": None, "worst_share": None}
    if measured is not None and measured["unit"] == "cycles" and rate:
        cycles, worst = measured["median"], measured["worst"]["count"]
        assert clock is not None
        return data | {
            "source": f"cycles on {measured['board']}",
            "cycles": cycles,
            "share": cycles * rate / (block * clock),
            "worst_share": worst * rate / (block * clock),
        }
    if clock is None:
        return data | {"missing": "a board, or a budget such as load=50%@64MHz, tells the clock"}
    try:
        load = model.load
        data |= {
            "source": f"modelled cycles of a {MODELLED}, zero wait states",
            "instructions": load.instructions,
            "cycles_low": load.cycles_low,
            "cycles_high": load.cycles_high,
        }
        data["share"] = load.share(model.signature, clock)
    except (CompileError, BoardError) as error:
        return data | {"missing": error.message}
    if measured is not None and measured["unit"] == "instructions" and load.instructions:
        # the worst block's instructions, each as dear as those of a block of noise
        scale = measured["worst"]["count"] / load.instructions
        data["worst_share"] = data["share"] * max(1.0, scale)
    return data


def _limit(model: CompiledModel, key: str, limit: int | LoadLimit) -> Data:
    used, text = used_of(model, key, limit)
    return {"key": key, "limit": str(limit), "used": used, "text": text.strip()}


def _graph(model: CompiledModel) -> Data | None:
    outline, signature = model.outline, model.signature
    if outline is None:
        return None
    data = outline.to_json()
    rate = signature.sample_rate_hz
    for i, unit in enumerate(data["units"]):
        unit["calls"] = list(outline.calls_of(i))
        count = unit["per_block"]
        unit["rate_hz"] = rate * count / signature.block if rate and count else None
    data["outputs"] = [
        {"name": spec.name, "unit": unit, "shape": spec.shape, "dtype": spec.dtype}
        for spec, unit in zip(signature.outputs, outline.outputs, strict=False)
    ]
    return data


def _of_pipeline(model: CompiledModel, pipeline: torch.nn.Module | None) -> Data:
    """What only PyTorch can tell."""
    if pipeline is None:
        return {"responses": [], "latency": None}
    from microddsp.reporting.latency import latency
    from microddsp.reporting.responses import responses

    heard = responses(model, pipeline)
    return {
        "responses": [shown for shown in heard if shown["shaped"]],
        "latency": latency(model, pipeline, {r["unit"]: r["delay"] for r in heard}),
    }
