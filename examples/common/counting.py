"""Counts of streams, on the device and in PyTorch, and how wrong they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

import microddsp
from microddsp.dsp.block import fixed_designs
from microddsp.training import Windows


def joined(parts: Iterable[Windows]) -> Windows:
    """The windows of several recordings as one set."""
    given = list(parts)
    return Windows(*(torch.cat([getattr(p, n) for p in given]) for n in Windows.__slots__))


def running_counts(module: torch.nn.Module, signal: torch.Tensor, block: int) -> np.ndarray:
    """PyTorch doing what the device does with a signal (channels, samples), block by block; filters
    are designed once, as there."""
    with torch.no_grad(), microddsp.streaming(module), fixed_designs(module):
        return torch.cat([module(part) for part in signal.split(block, -1)], -1).numpy()


def in_windows(
    counts: Sequence[np.ndarray], blocks: int, known: np.ndarray | None = None
) -> np.ndarray:
    """Events per window of `blocks` blocks, from the running counts after each block of some
    recordings; those in blocks that are not known are left out."""
    per_block = [np.diff(count.reshape(-1), prepend=0) for count in counts]
    if known is not None:
        per_block = [events * known[: len(events)] for events in per_block]
    return np.concatenate([p.reshape(-1, blocks).sum(axis=1) for p in per_block])


def errors(rows: Mapping[str, np.ndarray], reference: np.ndarray) -> dict[str, dict[str, Any]]:
    """Of each row of counts per window the total, the sum of misses over the sum of the reference
    (`error`) and the mean miss a window (`mae`)."""
    return {
        name: {
            "total": float(np.sum(values)),
            "error": float(np.abs(values - reference).sum() / reference.sum()),
            "mae": float(np.abs(values - reference).mean()),
            "windows": [float(v) for v in values],
        }
        for name, values in rows.items()
    }


def constant_error(seen: Windows, unseen: Windows) -> float:
    """The `error` of always counting what was usual in training."""
    reference = unseen.counts.numpy()
    usual = np.full(len(reference), float(seen.counts.median()))
    return float(errors({"usual": usual}, reference)["usual"]["error"])


def all_equal(device: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> bool:
    """Whether the device gave what PyTorch gave, after every block."""
    return all(map(np.array_equal, device, expected))
