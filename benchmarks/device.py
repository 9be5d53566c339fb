"""What the device costs: executed instructions in QEMU (exact), bytes, and waiting times.

python benchmarks/device.py
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import microddsp
from microddsp import dsp

RATE = 8000
BOARD = "mps2-an386"


def chain(**options: object) -> torch.nn.Module:
    """Band-pass of four sections, rectifier, envelope, counter: one loop on the device."""
    return torch.nn.Sequential(
        dsp.Bandpass(400.0, 900.0, 4, sample_rate_hz=RATE, **options),
        dsp.Envelope(0.002, 0.05, sample_rate_hz=RATE),
        dsp.EventCounter(0.1, 0.5, refractory_s=0.15, sample_rate_hz=RATE),
    )


def counter() -> torch.nn.Module:
    return torch.nn.Sequential(dsp.EventCounter(0.5, 0.5, refractory_s=0.01, sample_rate_hz=RATE))


def signal(kind: str, samples: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "sparse":  # nearly always below the threshold
        return (0.1 * rng.random((1, samples))).astype("float32")
    return rng.standard_normal((1, samples)).astype("float32")


def measure(name: str, module: torch.nn.Module, block: int, kind: str) -> dict[str, object]:
    start = time.perf_counter()
    model = microddsp.compile(module, torch.zeros(1, block), name="job")
    compiled = time.perf_counter() - start
    x = signal(kind, 16 * block)
    start = time.perf_counter()
    with microddsp.open_board(BOARD, model) as board:
        board.run(x[:, :block])
        answered = time.perf_counter() - start
        timing = board.time(x)
    return {
        "job": name,
        "block": block,
        "instructions_per_sample": timing.instructions_per_sample,
        "text_bytes": model.memory.flash_bytes,
        "ram_bytes": model.memory.ram_bytes,
        "stack_bytes": model.memory.stack_bytes,
        "compile_s": compiled,
        "first_answer_s": answered,
    }


def main() -> None:
    rows = [
        measure("4 sections + abs + envelope + counter", chain(), 64, "dense"),
        measure("same, settled by its first sample", chain(initial="first_sample"), 64, "dense"),
        measure("4 sections", chain()[:1], 64, "dense"),
        measure("4 sections", chain()[:1], 256, "dense"),
        measure("counter, dense input", counter(), 64, "dense"),
        measure("counter, sparse input", counter(), 64, "sparse"),
        measure("FIR, 32 taps", torch.nn.Sequential(dsp.FIR(np.hanning(32))), 256, "dense"),
    ]
    if "--json" in sys.argv:
        print(json.dumps(rows, indent=2))
        return
    table = Table(title=f"{BOARD}, GCC -O3, float32")
    for column in rows[0]:
        table.add_column(column.replace("_", " "), justify="left" if column == "job" else "right")
    for row in rows:
        table.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
