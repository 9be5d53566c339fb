"""Train a heart-beat counter from counts, compile it, run it on a Cortex-M4F in QEMU.

python examples/heartbeat/run.py [-o FOLDER] [--quick]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))

from data import BLOCK, Recording, load
from pipeline import pipeline, starts

import microddsp
from microddsp.training import Windows, cut_windows, fit, window_counts

WINDOW_BLOCKS = 16  # about 10 s
SETTLE_S = 5.0
BOARD = "mps2-an386"
console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/heartbeat"))
    parser.add_argument("--quick", action="store_true", help="fewer training steps")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the kernels are small: more threads only wait for each other

    recording = load("data3.csv")
    training, held_out = split(recording)
    console.print(
        f"[bold]data3.csv[/]: {len(recording.samples) / recording.sample_rate_hz:.0f} s at "
        f"{recording.sample_rate_hz:.2f} Hz; training on {len(cut(training))} windows with a "
        f"count each, {len(cut(held_out))} held out"
    )
    untrained = pipeline(recording.sample_rate_hz).eval()
    begin = time.perf_counter()
    result = fit(
        starts(recording.sample_rate_hz),
        cut(training, overlap=4),
        density_steps=0 if options.quick else 20,
        exact_steps=40 if options.quick else 300,
        learning_rate=0.05,
        batch=44,
        report=lambda line: console.print(f"  {line}", style="dim"),
    )
    trained = result.pipeline
    trained_s = time.perf_counter() - begin
    console.print(f"trained in {trained_s:.1f} s:\n{trained}\n")

    model = compile_for_device(trained)
    model.save(options.output / "heartbeat.tar")
    for name, text in model.sources.items():
        (options.output / name).write_text(text)
    signal = torch.tensor(held_out.samples[None], dtype=torch.float32)
    with microddsp.open_board(BOARD, model) as board:
        device = np.asarray(board.run(signal.numpy()))
        timing = board.time(signal.numpy())
    report = evaluate(training, held_out, untrained, trained, device)
    report["timing"] = timing.to_json()
    report["memory"] = model.memory.to_json()
    report["verification"] = waveforms(trained, signal).to_json()
    report["noisy"] = noisy(trained)
    report["training_s"] = trained_s
    show(report, options.output)
    plot(held_out, trained, options.output / "heartbeat.png")
    (options.output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    console.print(
        f"\nC files: {options.output / 'heartbeat.h'}, {options.output / 'heartbeat.c'}\n"
        f"archive: {options.output / 'heartbeat.tar'}\n"
        f"report:  {options.output / 'report.json'}, plot {options.output / 'heartbeat.png'}"
    )


def split(recording: Recording) -> tuple[Recording, Recording]:
    """The first two thirds and the last third, at the border of a window."""
    length = BLOCK * WINDOW_BLOCKS
    at = len(recording.samples) * 2 // 3 // length * length
    end = len(recording.samples) // length * length
    first = Recording(
        recording.name,
        recording.samples[:at],
        recording.sample_rate_hz,
        recording.peaks[recording.peaks < at],
        recording.known[:at],
    )
    inside = (recording.peaks >= at) & (recording.peaks < end)
    last = Recording(
        recording.name,
        recording.samples[at:end],
        recording.sample_rate_hz,
        recording.peaks[inside] - at,
        recording.known[at:end],
    )
    return first, last


def cut(recording: Recording, overlap: int = 1) -> Windows:
    """Windows of about 10 s; `overlap` of them hear each moment."""
    length_s = BLOCK * WINDOW_BLOCKS / recording.sample_rate_hz
    return cut_windows(
        torch.tensor(recording.samples[None], dtype=torch.float32),
        torch.tensor(recording.peaks),
        length_s=length_s,
        hop_s=length_s / overlap,
        settle_s=SETTLE_S,
        sample_rate_hz=recording.sample_rate_hz,
        known=torch.tensor(recording.known),
    )


def compile_for_device(trained: torch.nn.Module, taps: tuple[str, ...] = ()):
    return microddsp.compile(
        trained, torch.zeros(1, BLOCK), target="cortex-m4f", name="heartbeat", taps=taps
    )


def stream_counts(counts: np.ndarray, recording: Recording) -> np.ndarray:
    """Events per window in the known blocks, from the running count after each block."""
    per_block = np.diff(counts.reshape(-1), prepend=0)
    known = recording.known.reshape(-1, BLOCK)[:, 0][: len(per_block)]
    return (per_block * known).reshape(-1, WINDOW_BLOCKS).sum(axis=1)


def running_counts(module: torch.nn.Module, recording: Recording) -> np.ndarray:
    """PyTorch doing what the device does, block by block."""
    signal = torch.tensor(recording.samples[None], dtype=torch.float32)
    with torch.no_grad(), microddsp.streaming(module):
        return torch.cat([module(block) for block in signal.split(BLOCK, -1)], -1).numpy()


def evaluate(
    training: Recording,
    held_out: Recording,
    untrained: torch.nn.Module,
    trained: torch.nn.Module,
    device: np.ndarray,
) -> dict:
    seen, windows = cut(training), cut(held_out)
    reference = windows.counts.numpy()
    rate = float(seen.counts.sum() / seen.known.sum())
    with torch.no_grad():
        windowed = window_counts(trained, windows).numpy()
    rows = {
        "reference": reference,
        "constant count": np.full(len(reference), float(seen.counts.median())),
        "constant rate": rate * windows.known.sum(-1).numpy(),
        "untrained, PyTorch": stream_counts(running_counts(untrained, held_out), held_out),
        "trained, PyTorch": stream_counts(running_counts(trained, held_out), held_out),
        "trained, PyTorch windows": windowed,
        "trained, device": stream_counts(device, held_out),
    }
    return {
        "counts": {
            name: {
                "total": float(np.sum(values)),
                "mae": float(np.abs(values - reference).mean()),
                "windows": [float(v) for v in values],
            }
            for name, values in rows.items()
        },
        "device_equals_pytorch": bool(np.array_equal(device, running_counts(trained, held_out))),
    }


def waveforms(trained: torch.nn.Module, signal: torch.Tensor):
    """Band and envelope of the device against PyTorch, sample by sample."""
    tapped = compile_for_device(trained, taps=("band", "envelope"))
    return microddsp.verify(trained, tapped, signal, board=BOARD)


def noisy(trained: torch.nn.Module) -> dict:
    """data2.csv: 117 Hz, and the reference itself drops beats; shown, no bound.

    The same learned Hz and seconds at the other rate; counted in PyTorch.
    """
    recording = load("data2.csv")
    other = pipeline(recording.sample_rate_hz)
    band, envelope, counter = trained.band, trained.envelope, trained.counter
    other = torch.nn.Sequential(
        type(band)(
            float(band.low_hz.detach()),
            float(band.high_hz.detach()),
            band.order,
            sample_rate_hz=recording.sample_rate_hz,
            initial="first_sample",
        ),
        other.scale,
        type(envelope)(
            float(envelope.attack_s.detach()),
            float(envelope.release_s.detach()),
            sample_rate_hz=recording.sample_rate_hz,
            rectify=envelope.rectify,
        ),
        type(counter)(
            float(counter.threshold.detach()),
            release_threshold=float(counter.release_threshold.detach()),
            refractory_s=counter.refractory_s,
            sample_rate_hz=recording.sample_rate_hz,
        ),
    ).eval()
    end = len(recording.samples) // (BLOCK * WINDOW_BLOCKS) * BLOCK * WINDOW_BLOCKS
    shown = Recording(
        recording.name,
        recording.samples[:end],
        recording.sample_rate_hz,
        recording.peaks[recording.peaks < end],
        recording.known[:end],
    )
    counted = stream_counts(running_counts(other, shown), shown)
    reference = cut(shown).counts.numpy()
    return {
        "total": float(counted.sum()),
        "reference": float(reference.sum()),
        "mae": float(np.abs(counted - reference).mean()),
        "known_share": float(shown.known.mean()),
    }


def show(report: dict, folder: Path) -> None:
    table = Table(title="beats in the held-out third (known spans)")
    for column in ("", "total", "mean error a window"):
        table.add_column(column, justify="left" if not column else "right")
    for name, row in report["counts"].items():
        table.add_row(name, f"{row['total']:.0f}", f"{row['mae']:.3f}")
    console.print(table)
    noisy_row, memory, timing = report["noisy"], report["memory"], report["timing"]
    share = 100 * noisy_row["known_share"]
    console.print(
        f"data2.csv (noisy, {share:.0f} % known): {noisy_row['total']:.0f} "
        f"counted, reference {noisy_row['reference']:.0f}, mean error {noisy_row['mae']:.2f}"
    )
    console.print(f"device and PyTorch give the same counts: {report['device_equals_pytorch']}")
    for row in report["verification"]["outputs"]:
        console.print(
            f"  output {row['name']}: largest error {row['max_abs_error']:.2g}, relative "
            f"{row['max_rel_error']:.1e} (at most {row['tolerance']:.0e})"
        )
    console.print(
        f"flash {memory['flash_bytes']} B, RAM {memory['ram_bytes']} B (state "
        f"{memory['state_bytes']}, arena {memory['arena_bytes']}), "
        f"stack {memory['stack_bytes']} B; "
        f"{timing['instructions_median']:.0f} instructions a block of {BLOCK}, "
        f"{timing['instructions_per_sample']:.1f} a sample"
    )


def plot(recording: Recording, trained: torch.nn.Module, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rate = recording.sample_rate_hz
    signal = torch.tensor(recording.samples[None], dtype=torch.float32)
    with torch.no_grad():
        band = trained.band(signal)
        envelope = trained.envelope(trained.scale(band))
        trained.counter.per_sample = True
        events = torch.nonzero(trained.counter(envelope)[0])[:, 0].numpy()
        trained.counter.per_sample = False
    shown = slice(round(60 * rate), round(75 * rate))
    t = np.arange(len(recording.samples)) / rate
    figure, axes = plt.subplots(3, 1, figsize=(10, 7), sharex=True, layout="constrained")
    axes[0].plot(t[shown], recording.samples[shown], color="0.3")
    axes[0].set_ylabel("PPG (ADC steps)")
    axes[1].plot(t[shown], band[0].numpy()[shown])
    axes[1].set_ylabel(f"{trained.band.low_hz.item():.2f} to {trained.band.high_hz.item():.1f} Hz")
    axes[2].plot(t[shown], envelope[0].numpy()[shown])
    axes[2].axhline(trained.counter.threshold.item(), color="tab:red", label="threshold")
    axes[2].axhline(trained.counter.release_threshold.item(), color="tab:orange", label="release")
    axes[2].set_ylabel("envelope")
    axes[2].set_xlabel("seconds of the held-out part")
    axes[2].legend(loc="upper right")
    for axis in axes:
        low, high = axis.get_ylim()
        here = [e for e in events if shown.start <= e < shown.stop]
        axis.vlines(t[here], low, high, color="tab:green", linewidth=0.8, alpha=0.6)
        there = [p for p in recording.peaks if shown.start <= p < shown.stop]
        axis.plot(t[there], [high] * len(there), "kv", markersize=4)
    axes[0].set_title("green: counted beats; triangles: heartpy's accepted peaks")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
