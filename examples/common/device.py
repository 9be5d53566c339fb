"""The way of a pipeline to the device and back: compiled, saved, run, timed, verified."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import microddsp

BOARD = "mps2-an386"
TARGET = "cortex-m4f"


def compile_for_device(module: torch.nn.Module, example: torch.Tensor, name: str, **options: Any):
    """A model for the board; `example` (channels, block) fixes the block."""
    return microddsp.compile(module, example, target=TARGET, name=name, **options)


def save(model: Any, folder: Path) -> None:
    """The archive and the C files."""
    model.save(folder / f"{model.name}.tar")
    for name, text in model.sources.items():
        (folder / name).write_text(text)


def run_on_board(
    model: Any, signals: Sequence[np.ndarray], timed: np.ndarray
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """What the device makes of each signal (channels, samples), and its time for one of them."""
    with microddsp.open_board(BOARD, model) as board:
        outputs = [np.asarray(board.run(signal)) for signal in signals]
        return outputs, board.time(timed).to_json()


def verified(module: torch.nn.Module, tapped: Any, signal: Any) -> dict[str, Any]:
    """The device against PyTorch, sample by sample, in every output of a model with taps."""
    return microddsp.verify(module, tapped, signal, board=BOARD).to_json()
