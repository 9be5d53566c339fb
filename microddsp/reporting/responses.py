"""What the filters of a pipeline do to frequencies, as they were learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from microddsp.dsp.block import Block
from microddsp.errors import MicroddspError
from microddsp.outline import Unit
from microddsp.reporting.latency import modules_of
from microddsp.responses import group_delay, impulse_response, pass_band

if TYPE_CHECKING:
    import torch

    from microddsp.micro.package.model import CompiledModel

POINTS = 240
_LEAST, _MOST = 4096, 2**17
_FLOOR_DB = -160.0
# What refuses a probe: a block that is no filter of one signal.
_REFUSALS = (MicroddspError, RuntimeError, TypeError, ValueError, IndexError)


def responses(model: CompiledModel, pipeline: torch.nn.Module) -> list[dict[str, Any]]:
    """One entry for every block that is linear and the same at all times.

    `delay` is the group delay in the middle of its band, in samples of its own input; of several
    channels the longest;
    `shaped` tells whether there is anything to see.
    """
    outline, signature = model.outline, model.signature
    if outline is None:
        return []
    found = []
    for i, module in modules_of(outline, pipeline).items():
        if not isinstance(module, Block):
            continue
        unit = outline.units[i]
        before = outline.units[unit.inputs[0]]
        rate = module.sample_rate_hz
        if not rate and signature.sample_rate_hz and before.per_block:
            rate = signature.sample_rate_hz * before.per_block / signature.block
        measured = _measure(module, before, rate)
        if measured is not None:
            found.append({"unit": i, "path": unit.path, "kind": unit.kind, **measured})
    return found


def _measure(module: Block, before: Unit, rate: float | None) -> dict[str, Any] | None:
    samples = 1 << (min(max(_LEAST, 4 * module.settle_samples), _MOST) - 1).bit_length()
    channels = before.shape[-2] if len(before.shape) >= 2 else 1
    try:
        impulse = impulse_response(module, samples, channels=channels)
    except _REFUSALS:
        return None
    spectrum, late = np.fft.rfft(impulse), group_delay(impulse)
    edges = [pass_band(row) for row in spectrum]
    middle = [_middle(late[c], edge) for c, edge in enumerate(edges)]
    known = [value for value in middle if value is not None]
    frequencies = np.fft.rfftfreq(samples, 1 / rate if rate else 1.0)
    chosen = _points(samples)
    size = 20 * np.log10(np.maximum(np.abs(spectrum), 10 ** (_FLOOR_DB / 20)))
    return {
        "rate_hz": rate,
        "delay": max(known) if known else None,
        "shaped": bool(np.ptp(size[:, chosen], axis=-1).max() > 0.1),
        "frequencies": _rounded(frequencies[chosen]),
        "channels": [
            {
                "magnitude_db": _rounded(size[c, chosen]),
                "group_delay": _rounded(late[c, chosen]),
                "band": [float(frequencies[edge]) for edge in edges[c]],
                "centre": float(frequencies[sum(edges[c]) // 2]),
                "delay": middle[c],
            }
            for c in range(len(spectrum))
        ],
    }


def _middle(delay: np.ndarray, edges: tuple[int, int]) -> float | None:
    value = float(delay[sum(edges) // 2])
    return round(value, 6) if np.isfinite(value) else None


def _points(samples: int) -> np.ndarray:
    """Bins at equal distances of a logarithmic axis."""
    wanted = np.geomspace(1, samples // 2, POINTS)
    return np.unique(np.rint(wanted).astype(int))


def _rounded(values: np.ndarray) -> list[float | None]:
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in values.tolist()]
