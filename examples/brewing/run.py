"""Train a counter of plops from counts, compile it, run it on a Cortex-M4F in QEMU.

python examples/brewing/run.py [-o FOLDER] [--quick] [--wav FILE]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import plots, report
from common.counting import all_equal, errors, in_windows, joined, running_counts
from common.device import compile_for_device, run_on_board, save, verified
from data import FOLDER, LEVEL, RATE, WINDOW_S, Recording, read, record, split
from pipeline import starts

from microddsp.training import Windows, cut_windows, fit

SETTLE_S = 0.25
BLOCK = 80  # samples; 10 ms
console = report.console


def main() -> None:
    parser = report.option_parser(__doc__, "brewing", "less data, fewer training steps")
    parser.add_argument("--wav", type=Path, help="count the plops of this recording, too")
    options = parser.parse_args()
    if not FOLDER.is_dir():
        sys.exit(f"{FOLDER} is missing: apt-get install sonic-pi-samples (or tools/packages.sh)")
    report.start(options.output)

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

    model = compiled(trained)
    save(model, options.output)
    heard = [recording.samples[None] for recording in held_out]
    device, timing = run_on_board(model, heard, heard[0][:, : 100 * BLOCK])
    found = evaluate(seen, held_out, trained, device)
    found["timing"] = timing
    found["memory"] = model.memory.to_json()
    found["verification"] = verified(
        trained, compiled(trained, taps=("mix",)), heard[0][:, : 600 * BLOCK]
    )
    found["training_s"] = trained_s
    show(found)
    plot(held_out[0], trained, options.output / "brewing.png")
    report.write(found, options.output)
    console.print(f"\nC files, archive, report and plot: {options.output}")
    if options.wav:
        own = level(read(options.wav))
        own = own[: len(own) // BLOCK * BLOCK]
        counted = running_counts(trained, torch.tensor(own[None]), BLOCK)
        console.print(f"{options.wav}: {counted[0, -1]:.0f} plops")


def cut(recordings: list[Recording]) -> Windows:
    return joined(
        cut_windows(
            torch.tensor(recording.samples[None]),
            torch.tensor(recording.plops),
            length_s=WINDOW_S,
            settle_s=SETTLE_S,
            sample_rate_hz=RATE,
        )
        for recording in recordings
    )


def level(samples: np.ndarray) -> np.ndarray:
    """A recording with its loudest 50 ms (all but one in a thousand) where a loud plop has them.

    The thresholds are absolute; a device that always hears the same room needs no such step.
    """
    spans = samples[: len(samples) // (RATE // 20) * (RATE // 20)].reshape(-1, RATE // 20)
    loud = np.quantile(np.sqrt((spans**2).mean(axis=1)), 0.999) if len(spans) else 0.0
    return (samples * (1.4 * LEVEL / loud if loud > 0 else 1.0)).astype("float32")


def compiled(trained: torch.nn.Module, taps: tuple[str, ...] = ()):
    return compile_for_device(trained, torch.zeros(1, BLOCK), "brewing", taps=taps)


def evaluate(
    seen: Windows, held_out: list[Recording], trained: torch.nn.Module, device: list[np.ndarray]
) -> dict:
    def counted(module: torch.nn.Module) -> list[np.ndarray]:
        return [running_counts(module, torch.tensor(r.samples[None]), BLOCK) for r in held_out]

    blocks = round(WINDOW_S * RATE) // BLOCK
    expected = counted(trained)
    reference = cut(held_out).counts.numpy()
    rows = {
        "reference": reference,
        "constant count": np.full(len(reference), float(seen.counts.median())),
        "untrained, PyTorch": in_windows(counted(starts(RATE)[0].eval()), blocks),
        "trained, PyTorch": in_windows(expected, blocks),
        "trained, device": in_windows(device, blocks),
    }
    return {
        "counts": errors(rows, reference),
        "device_equals_pytorch": all_equal(device, expected),
    }


def show(found: dict) -> None:
    report.show_error_shares("plops: held-out sounds, held-out ambience", found["counts"])
    console.print(
        f"error: sum of |counted - reference| over windows of {WINDOW_S:g} s / sum of the reference"
    )
    report.show_device(found)


def plot(recording: Recording, trained: torch.nn.Module, path: Path) -> None:
    signal = torch.tensor(recording.samples[None])
    with torch.no_grad():
        envelopes = trained.weights(trained.envelopes(trained.bands(trained.spread(signal))))
        evidence = trained.mix(envelopes)
    events = plots.event_samples(trained.counter, evidence)
    shown = slice(0, round(2 * WINDOW_S * RATE))
    t = np.arange(len(recording.samples)) / RATE
    figure, axes = plots.stack(3, height=8)
    axes[0].specgram(recording.samples[shown], NFFT=256, noverlap=128, Fs=RATE, vmin=-120, vmax=-40)
    axes[0].set_ylabel("Hz")
    edges = zip(trained.bands.low_hz.tolist(), trained.bands.high_hz.tolist(), strict=True)
    for (low, high), line in zip(edges, envelopes.numpy(), strict=True):
        axes[1].plot(t[shown], line[shown], linewidth=0.8, label=f"{low:.0f} to {high:.0f} Hz")
    axes[1].set_ylabel("weighted envelopes")
    axes[1].legend(loc="lower right")
    axes[2].plot(t[shown], evidence[0].numpy()[shown], linewidth=0.8)
    plots.draw_thresholds(axes[2], trained.counter)
    axes[2].set_ylabel("their sum")
    axes[2].set_ylim(bottom=-0.2)
    axes[2].set_xlabel(f"seconds over {recording.name}")
    plots.draw_events(
        axes,
        t,
        shown,
        events,
        recording.plops,
        others=recording.distractors,
        colours=("white", "tab:green", "tab:green"),
        alpha=1.0,
    )
    axes[0].set_title("lines: counted; triangles: plops; red crosses: other sounds")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
