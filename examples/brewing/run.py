"""Train a counter of plops from counts, compile it, run it on a Cortex-M4F in QEMU.

python examples/brewing/run.py [-o FOLDER] [--quick] [--wav FILE]
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

from data import FOLDER, LEVEL, RATE, WINDOW_S, Recording, read, record, split
from pipeline import starts

import microddsp
from microddsp.training import Windows, cut_windows, fit

SETTLE_S = 0.25
BLOCK = 80  # samples; 10 ms
BOARD = "mps2-an386"
console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/brewing"))
    parser.add_argument("--quick", action="store_true", help="less data, fewer training steps")
    parser.add_argument("--wav", type=Path, help="count the plops of this recording, too")
    options = parser.parse_args()
    if not FOLDER.is_dir():
        sys.exit(f"{FOLDER} is missing: apt-get install sonic-pi-samples (or tools/packages.sh)")
    options.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the kernels are small: more threads only wait for each other

    training, unheard = split()
    console.print(f"plops for training: {', '.join(training.plops)}")
    console.print(f"plops held out: {', '.join(unheard.plops)}")
    seen = cut(record(training, 30 if options.quick else 144, seed=3, speeds=0.2))
    held_out = record(unheard, 30 if options.quick else 120, seed=5)
    console.print(f"training on {len(seen)} windows of {WINDOW_S:g} s with a count each")
    begin = time.perf_counter()
    trained = fit(
        starts(RATE)[:1] if options.quick else starts(RATE),
        seen,
        density_steps=0,
        exact_steps=40 if options.quick else 160,
        learning_rate=0.03,
        check_every=20 if options.quick else 40,
        report=lambda line: console.print(f"  {line}", style="dim"),
    ).pipeline
    trained_s = time.perf_counter() - begin
    console.print(f"trained in {trained_s:.1f} s:\n{trained}\n")

    model = compile_for_device(trained)
    model.save(options.output / "brewing.tar")
    for name, text in model.sources.items():
        (options.output / name).write_text(text)
    with microddsp.open_board(BOARD, model) as board:
        device = [np.asarray(board.run(recording.samples[None])) for recording in held_out]
        timing = board.time(held_out[0].samples[None, : 100 * BLOCK])
    report = evaluate(seen, held_out, trained, device)
    report["timing"] = timing.to_json()
    report["memory"] = model.memory.to_json()
    tapped = compile_for_device(trained, taps=("mix",))
    report["verification"] = microddsp.verify(
        trained, tapped, held_out[0].samples[None, : 600 * BLOCK], board=BOARD
    ).to_json()
    report["training_s"] = trained_s
    show(report)
    plot(held_out[0], trained, options.output / "brewing.png")
    (options.output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    console.print(f"\nC files, archive, report and plot: {options.output}")
    if options.wav:
        own = level(read(options.wav))
        own = own[: len(own) // BLOCK * BLOCK]
        console.print(f"{options.wav}: {running_counts(trained, own)[0, -1]:.0f} plops")


def cut(recordings: list[Recording]) -> Windows:
    parts = [
        cut_windows(
            torch.tensor(recording.samples[None]),
            torch.tensor(recording.plops),
            length_s=WINDOW_S,
            settle_s=SETTLE_S,
            sample_rate_hz=RATE,
        )
        for recording in recordings
    ]
    return Windows(*(torch.cat([getattr(p, n) for p in parts]) for n in Windows.__slots__))


def level(samples: np.ndarray) -> np.ndarray:
    """A recording with its loudest 50 ms (all but one in a thousand) where a loud plop has them.

    The thresholds are absolute; a device that always hears the same room needs no such step.
    """
    spans = samples[: len(samples) // (RATE // 20) * (RATE // 20)].reshape(-1, RATE // 20)
    loud = np.quantile(np.sqrt((spans**2).mean(axis=1)), 0.999) if len(spans) else 0.0
    return (samples * (1.4 * LEVEL / loud if loud > 0 else 1.0)).astype("float32")


def compile_for_device(trained: torch.nn.Module, taps: tuple[str, ...] = ()):
    return microddsp.compile(
        trained, torch.zeros(1, BLOCK), target="cortex-m4f", name="brewing", taps=taps
    )


def running_counts(module: torch.nn.Module, samples: np.ndarray) -> np.ndarray:
    """PyTorch doing what the device does, block by block."""
    with torch.no_grad(), microddsp.streaming(module):
        blocks = torch.tensor(samples[None]).split(BLOCK, -1)
        return torch.cat([module(block) for block in blocks], -1).numpy()


def in_windows(counts: list[np.ndarray]) -> np.ndarray:
    """Events per window from the running counts after each block of some recordings."""
    blocks = round(WINDOW_S * RATE) // BLOCK
    per_block = [np.diff(count.reshape(-1), prepend=0) for count in counts]
    return np.concatenate([p.reshape(-1, blocks).sum(axis=1) for p in per_block])


def evaluate(
    seen: Windows, held_out: list[Recording], trained: torch.nn.Module, device: list[np.ndarray]
) -> dict:
    untrained = starts(RATE)[0].eval()
    expected = [running_counts(trained, recording.samples) for recording in held_out]
    before = [running_counts(untrained, recording.samples) for recording in held_out]
    reference = cut(held_out).counts.numpy()
    rows = {
        "reference": reference,
        "constant count": np.full(len(reference), float(seen.counts.median())),
        "untrained, PyTorch": in_windows(before),
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


def show(report: dict) -> None:
    table = Table(title="plops: held-out sounds, held-out ambience")
    for column in ("", "total", "error"):
        table.add_column(column, justify="left" if not column else "right")
    for name, values in report["counts"].items():
        table.add_row(name, f"{values['total']:.0f}", f"{100 * values['error']:.1f} %")
    console.print(table)
    console.print(
        f"error: sum of |counted - reference| over windows of {WINDOW_S:g} s / sum of the reference"
    )
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


def plot(recording: Recording, trained: torch.nn.Module, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    signal = torch.tensor(recording.samples[None])
    with torch.no_grad():
        envelopes = trained.weights(trained.envelopes(trained.bands(trained.spread(signal))))
        evidence = trained.mix(envelopes)
        trained.counter.per_sample = True
        events = torch.nonzero(trained.counter(evidence)[0])[:, 0].numpy()
        trained.counter.per_sample = False
    shown = slice(0, round(2 * WINDOW_S * RATE))
    t = np.arange(len(recording.samples)) / RATE
    figure, axes = plt.subplots(3, 1, figsize=(10, 8), sharex=True, layout="constrained")
    axes[0].specgram(recording.samples[shown], NFFT=256, noverlap=128, Fs=RATE, vmin=-120, vmax=-40)
    axes[0].set_ylabel("Hz")
    edges = zip(trained.bands.low_hz.tolist(), trained.bands.high_hz.tolist(), strict=True)
    for (low, high), line in zip(edges, envelopes.numpy(), strict=True):
        axes[1].plot(t[shown], line[shown], linewidth=0.8, label=f"{low:.0f} to {high:.0f} Hz")
    axes[1].set_ylabel("weighted envelopes")
    axes[1].legend(loc="lower right")
    axes[2].plot(t[shown], evidence[0].numpy()[shown], linewidth=0.8)
    axes[2].axhline(trained.counter.threshold.item(), color="tab:red", label="threshold")
    axes[2].axhline(trained.counter.release_threshold.item(), color="tab:orange", label="release")
    axes[2].set_ylabel("their sum")
    axes[2].set_ylim(bottom=-0.2)
    axes[2].set_xlabel(f"seconds over {recording.name}")
    axes[2].legend(loc="lower right")
    for axis, colour in zip(axes, ("white", "tab:green", "tab:green"), strict=True):
        low, high = axis.get_ylim()
        axis.vlines(t[events[events < shown.stop]], low, high, color=colour, linewidth=0.8)
        begins = recording.plops[recording.plops < shown.stop]
        others = recording.distractors[recording.distractors < shown.stop]
        axis.plot(t[begins], [high] * len(begins), "kv", markersize=5, clip_on=False)
        axis.plot(t[others], [high] * len(others), "x", color="tab:red", clip_on=False)
        axis.set_ylim(low, high)
    axes[0].set_title("lines: counted; triangles: plops; red crosses: other sounds")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
