"""Train a stroke counter from counts, compile it, run it on a Cortex-M4F in QEMU.

python examples/rowing/run.py [-o FOLDER] [--quick]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))

from data import RATE, SCALE, Bout, Recording, row, walk
from pipeline import pipeline

import microddsp
from microddsp.training import Windows, cut_windows, fit, window_counts

WINDOW_S = 20
SETTLE_S = 5
BLOCK = 50  # samples; a second
BOARD = "mps2-an386"
SENSOR = microddsp.Input(dtype="s16", interleaved=True, scale=SCALE, unit="m/s^2")
console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/rowing"))
    parser.add_argument("--quick", action="store_true", help="less data, fewer training steps")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the kernels are small: more threads only wait for each other

    crews = 3 if options.quick else 6
    seen = cut([row(300, seed) for seed in range(crews)])
    held_out = [row(300, 100 + seed) for seed in range(crews)]
    console.print(
        f"[bold]simulated rowing[/]: {len(seen)} windows of {WINDOW_S} s with a count each, and "
        f"{crews} other crews held out"
    )
    begin = time.perf_counter()
    trained = fit(
        [pipeline(RATE, threshold=t, band_hz=b) for t in (0.5, 1.5) for b in ((0.5, 3), (0.8, 6))],
        seen,
        density_steps=0,
        exact_steps=100 if options.quick else 200,
        learning_rate=0.03,
        report=lambda line: console.print(f"  {line}", style="dim"),
    ).pipeline
    trained_s = time.perf_counter() - begin
    console.print(f"trained in {trained_s:.1f} s:\n{trained}\n")

    model = compile_for_device(trained, "rowing")
    model.save(options.output / "rowing.tar")
    for name, text in model.sources.items():
        (options.output / name).write_text(text)
    with microddsp.open_board(BOARD, model) as board:
        device = [np.asarray(board.run(outing.samples.T)) for outing in held_out]
        timing = board.time(held_out[0].samples.T)
    report = evaluate(seen, held_out, trained, device)
    report["timing"] = timing.to_json()
    report["memory"] = model.memory.to_json()
    tapped = compile_for_device(trained, "rowing", taps=("band",))
    report["verification"] = microddsp.verify(
        trained, tapped, held_out[0].samples.T, board=BOARD
    ).to_json()
    report["training_s"] = trained_s
    report["walk"] = steps(walk()) if importlib.util.find_spec("gaitpy") else None
    show(report)
    plot(held_out[0], trained, options.output / "rowing.png")
    (options.output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    console.print(f"\nC files, archive, report and plot: {options.output}")


def signal_of(raw: np.ndarray) -> torch.Tensor:
    """(3, samples) in m/s^2, as the device converts it."""
    return torch.tensor(raw.T.astype("float32")) * SCALE


def cut(outings: list[Recording]) -> Windows:
    parts = [
        cut_windows(
            signal_of(outing.samples),
            torch.tensor(outing.strokes),
            length_s=WINDOW_S,
            settle_s=SETTLE_S,
            sample_rate_hz=RATE,
        )
        for outing in outings
    ]
    return Windows(*(torch.cat([getattr(p, n) for p in parts]) for n in Windows.__slots__))


def compile_for_device(trained: torch.nn.Module, name: str, taps: tuple[str, ...] = ()):
    return microddsp.compile(
        trained,
        torch.zeros(3, BLOCK),
        target="cortex-m4f",
        name=name,
        input=SENSOR,
        taps=taps,
    )


def running_counts(module: torch.nn.Module, raw: np.ndarray) -> np.ndarray:
    """PyTorch doing what the device does, block by block."""
    with torch.no_grad(), microddsp.streaming(module):
        blocks = signal_of(raw).split(BLOCK, -1)
        return torch.cat([module(block) for block in blocks], -1).numpy()


def in_windows(counts: list[np.ndarray]) -> np.ndarray:
    """Events per window from the running counts after each block of some outings."""
    blocks = WINDOW_S * RATE // BLOCK
    per_block = [np.diff(count.reshape(-1), prepend=0) for count in counts]
    return np.concatenate([p.reshape(-1, blocks).sum(axis=1) for p in per_block])


def evaluate(
    seen: Windows, held_out: list[Recording], trained: torch.nn.Module, device: list[np.ndarray]
) -> dict:
    untrained = pipeline(RATE).eval()
    expected = [running_counts(trained, outing.samples) for outing in held_out]
    reference = cut(held_out).counts.numpy()
    rows = {
        "reference": reference,
        "constant count": np.full(len(reference), float(seen.counts.median())),
        "untrained, PyTorch": in_windows([running_counts(untrained, o.samples) for o in held_out]),
        "trained, PyTorch": in_windows(expected),
        "trained, device": in_windows(device),
    }
    return {
        "counts": {
            name: {
                "total": float(np.sum(values)),
                "error": float(np.abs(values - reference).sum() / reference.sum()),
                "windows": [float(v) for v in values],
            }
            for name, values in rows.items()
        },
        "device_equals_pytorch": all(map(np.array_equal, device, expected)),
    }


def steps(bouts: list[Bout]) -> dict:
    """The same pipeline on a real waist: two walks with a count each train it, one tests it."""
    starts = [
        pipeline(RATE, direction, (0.8, 4.0), threshold, refractory_s=0.25)
        for direction in ((0.0, 1.0, 0.0), (0.0, -1.0, 0.0))
        for threshold in (0.5, 1.5)
    ]
    windows = walks(bouts)
    trained = fit(
        starts,
        windows.select(torch.arange(2)),
        density_steps=0,
        exact_steps=200,
        learning_rate=0.03,
    ).pipeline
    model = compile_for_device(trained, "steps")
    with microddsp.open_board(BOARD, model) as board:
        device = [int(np.asarray(board.run(bout.samples.T)).reshape(-1)[-1]) for bout in bouts]
    with torch.no_grad():
        return {
            "reference": [bout.steps for bout in bouts],
            "untrained": window_counts(starts[0], windows).tolist(),
            "trained": window_counts(trained, windows).tolist(),
            "device": device,
        }


def walks(bouts: list[Bout]) -> Windows:
    """Walks of different lengths as windows; the first sample is repeated before each."""
    lead, longest = SETTLE_S * RATE, max(len(bout.samples) for bout in bouts)
    signals, known = [], torch.zeros(len(bouts), lead + longest, dtype=torch.bool)
    for number, bout in enumerate(bouts):
        missing = longest - len(bout.samples)
        signals.append(
            torch.nn.functional.pad(signal_of(bout.samples), (lead, missing), mode="replicate")
        )
        known[number, lead : lead + len(bout.samples)] = True
    counts = torch.tensor([float(bout.steps) for bout in bouts])
    return Windows(torch.stack(signals), known, counts)


def show(report: dict) -> None:
    table = Table(title=f"strokes of the held-out crews, in windows of {WINDOW_S} s")
    for column in ("", "total", "error"):
        table.add_column(column, justify="left" if not column else "right")
    for name, values in report["counts"].items():
        table.add_row(name, f"{values['total']:.0f}", f"{100 * values['error']:.1f} %")
    console.print(table)
    console.print("error: sum of |counted - reference| of all windows / sum of the reference")
    if report["walk"] is None:
        console.print("steps: left out, gaitpy is missing (pip install --no-deps gaitpy)")
    else:
        table = Table(title="steps of a real walker (gaitpy); the last walk is held out")
        for column in ("", "walk 1", "walk 2", "walk 3"):
            table.add_column(column, justify="left" if not column else "right")
        for name, values in report["walk"].items():
            table.add_row(name, *(f"{value:.0f}" for value in values))
        console.print(table)
    memory, timing = report["memory"], report["timing"]
    console.print(f"device and PyTorch give the same counts: {report['device_equals_pytorch']}")
    for output in report["verification"]["outputs"]:
        console.print(
            f"  output {output['name']}: largest error {output['max_abs_error']:.2g}, relative "
            f"{output['max_rel_error']:.1e} (at most {output['tolerance']:.0e})"
        )
    console.print(
        f"flash {memory['flash_bytes']} B, RAM {memory['ram_bytes']} B, stack "
        f"{memory['stack_bytes']} B; {timing['instructions_per_sample']:.1f} instructions a sample"
    )


def plot(outing: Recording, trained: torch.nn.Module, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    signal = signal_of(outing.samples)
    with torch.no_grad():
        band = trained.band(trained.sum(trained.direction(signal)))
        trained.counter.per_sample = True
        events = torch.nonzero(trained.counter(band)[0])[:, 0].numpy()
        trained.counter.per_sample = False
    begin = int(outing.strokes[0])
    shown = slice(max(0, begin - 4 * RATE), begin + 26 * RATE)
    t = np.arange(len(outing.samples)) / RATE
    figure, axes = plt.subplots(3, 1, figsize=(10, 7), sharex=True, layout="constrained")
    axes[0].plot(t[shown], outing.boat[shown], color="0.3")
    axes[0].set_ylabel("boat alone (m/s²)")
    offset = signal.median(dim=-1, keepdim=True).values
    for line, name in zip((signal - offset).numpy(), "xyz", strict=True):
        axes[1].plot(t[shown], line[shown], linewidth=0.7, label=name)
    axes[1].set_ylabel("sensor, less offset (m/s²)")
    axes[1].legend(loc="lower right")
    axes[2].plot(t[shown], band[0].numpy()[shown])
    axes[2].axhline(trained.counter.threshold.item(), color="tab:red", label="threshold")
    axes[2].axhline(trained.counter.release_threshold.item(), color="tab:orange", label="release")
    axes[2].set_ylabel(f"{trained.band.low_hz.item():.2f} to {trained.band.high_hz.item():.2f} Hz")
    axes[2].set_xlabel("seconds")
    axes[2].legend(loc="lower right")
    for axis in axes:
        low, high = axis.get_ylim()
        here = [e for e in events if shown.start <= e < shown.stop]
        axis.vlines(t[here], low, high, color="tab:green", linewidth=0.8, alpha=0.6)
        there = [s for s in outing.strokes if shown.start <= s < shown.stop]
        axis.plot(t[there], [high] * len(there), "kv", markersize=4)
    axes[0].set_title("green: counted strokes; triangles: where strokes begin")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
