"""Train a counter of plops from counts, compile it, run it on a Cortex-M4F in QEMU.

python examples/brewing/run.py [-o FOLDER] [--quick] [--wav FILE]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import plots, report
from common.counting import all_equal, errors, in_windows, running_counts
from common.device import compile_for_device, run_on_board, save, verified
from data import FOLDER, RATE, WINDOW_S, Recording, level, read, record, split
from learning import FULL, QUICK, cut, train
from pipeline import HOP, bank, head, single_band, with_bank

from microddsp.training import Windows, scan

BLOCK = HOP  # samples; 10 ms
WINDOW = round(WINDOW_S * RATE)
RENDERINGS = (5, 6, 7)  # seeds of held-out recordings
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
    begin = time.perf_counter(), time.process_time()
    trained, seen = train(
        training,
        QUICK if options.quick else FULL,
        lambda line: console.print(f"  {line}", style="dim"),
    )
    seconds = time.perf_counter() - begin[0], time.process_time() - begin[1]
    console.print(
        f"trained on {len(seen)} windows of {WINDOW_S:g} s with a count each, in {seconds[0]:.0f} s"
        f" ({seconds[1]:.0f} s of CPU), rendering included:\n{trained}\n"
    )

    model = compiled(trained)
    save(model, options.output)
    seeds = RENDERINGS[:1] if options.quick else RENDERINGS
    renderings = [record(unheard, 30 if options.quick else 120, seed) for seed in seeds]
    heard = [recording.samples[None] for recordings in renderings for recording in recordings]
    device, timing = run_on_board(model, heard, heard[0][:, : 100 * BLOCK])
    found = evaluate(seen, renderings, trained, device)
    found["timing"] = timing
    found["memory"] = model.memory.to_json()
    found["verification"] = verified(
        trained, compiled(trained, taps=("evidence",)), heard[0][:, : 600 * BLOCK]
    )
    found["training_s"], found["training_cpu_s"] = seconds
    show(found)
    plot(renderings[0][0], trained, options.output / "brewing.png")
    report.write(found, options.output)
    console.print(f"\nC files, archive, report and plot: {options.output}")
    if options.wav:
        own = level(read(options.wav))
        own = own[: len(own) // BLOCK * BLOCK]
        counted = running_counts(trained, torch.tensor(own[None]), WINDOW)
        console.print(f"{options.wav}: {counted[0, -1]:.0f} plops")


def compiled(trained: torch.nn.Module, taps: tuple[str, ...] = ()):
    return compile_for_device(trained, torch.zeros(1, BLOCK), "brewing", taps=taps)


def evaluate(
    seen: Windows,
    renderings: Sequence[Sequence[Recording]],
    trained: torch.nn.Module,
    device: Sequence[np.ndarray],
) -> dict:
    held_out = [recording for recordings in renderings for recording in recordings]

    def counted(module: torch.nn.Module) -> list[np.ndarray]:
        return [running_counts(module, torch.tensor(r.samples[None]), WINDOW) for r in held_out]

    def in_each(counts: Sequence[np.ndarray]) -> np.ndarray:
        return in_windows(counts, 1)

    expected = counted(trained)
    of_device = [counts[..., WINDOW // BLOCK - 1 :: WINDOW // BLOCK] for counts in device]
    reference = cut(held_out).counts.numpy()
    some = seen.select(torch.arange(0, len(seen), max(1, len(seen) // 100)))
    band = scan([single_band(RATE)], some, hystereses=(0.25, 0.5, 0.75), keep=1)[0].pipeline.eval()
    untrained = with_bank(bank(RATE), head(RATE / HOP)).eval()
    rows = {
        "reference": reference,
        "constant count": np.full(len(reference), float(seen.counts.median())),
        "one band and a threshold, PyTorch": in_each(counted(band)),
        "untrained, PyTorch": in_each(counted(untrained)),
        "trained, PyTorch": in_each(expected),
        "trained, device": in_each(of_device),
    }
    parts = [np.split(row, len(renderings)) for row in (rows["trained, device"], reference)]
    return {
        "counts": errors(rows, reference),
        "renderings": [
            errors({"device": part}, known)["device"]["error"]
            for part, known in zip(*parts, strict=True)
        ],
        "device_equals_pytorch": all_equal(of_device, expected),
    }


def show(found: dict) -> None:
    report.show_error_shares("plops: held-out sounds, held-out ambience", found["counts"])
    console.print(
        f"error: sum of |counted - reference| over windows of {WINDOW_S:g} s / sum of the reference"
    )
    each = ", ".join(f"{100 * error:.1f} %" for error in found["renderings"])
    console.print(f"of each rendering of the held-out sounds, on the device: {each}")
    report.show_device(found)


def plot(recording: Recording, trained: torch.nn.Module, path: Path) -> None:
    signal = torch.tensor(recording.samples[None])
    with torch.no_grad():
        levels = trained.bank(signal)
        evidence = trained[1:-1](levels)
    events = HOP * plots.event_samples(trained.counter, evidence)
    shown = slice(0, round(2 * WINDOW_S * RATE))
    t = np.arange(len(recording.samples)) / RATE
    coarse = slice(0, shown.stop // HOP)
    figure, axes = plots.stack(3, height=8)
    axes[0].specgram(recording.samples[shown], NFFT=512, noverlap=384, Fs=RATE, vmin=-120, vmax=-40)
    axes[0].set_yscale("symlog", linthresh=500)
    axes[0].set_ylabel("Hz")
    bands = trained.bank.bands
    edges = zip(bands.low_hz.tolist(), bands.high_hz.tolist(), strict=True)
    for (low, high), line in zip(edges, levels.numpy(), strict=True):
        decibels = 20 * np.log10(line[coarse] + 1e-3)
        axes[1].plot(t[::HOP][coarse], decibels, linewidth=0.8, label=f"{low:.0f} to {high:.0f} Hz")
    axes[1].set_ylabel("levels of the bands, dB")
    axes[1].legend(loc="lower right", ncols=len(levels), fontsize=8)
    axes[2].plot(t[::HOP][coarse], evidence[0].numpy()[coarse], linewidth=0.8)
    plots.draw_thresholds(axes[2], trained.counter)
    axes[2].set_ylabel("evidence of a plop")
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
