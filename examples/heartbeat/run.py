"""Train a heart-beat counter from counts, compile it, run it on a Cortex-M4F in QEMU.

python examples/heartbeat/run.py [-o FOLDER] [--quick]
"""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import plots, report
from common.counting import all_equal, errors, in_windows, joined, running_counts
from common.device import compile_for_device, run_on_board, save, verified
from data import BLOCK, Recording, load
from pipeline import pipeline, starts

from microddsp.training import Windows, cut_windows, fit, window_counts

WINDOW_BLOCKS = 16  # about 10 s
WINDOW = BLOCK * WINDOW_BLOCKS
SETTLE_S = 5.0
# Of the recording the share to learn from, and how many windows hear each moment of that: the
# short recording is heard four times as often.
PARTS = {"data3.csv": (2 / 3, 4), "data2.csv": (1 / 2, 16)}
# By cross-validation within the training parts.
MARGIN = 0.2
console = report.console


def main() -> None:
    options = report.option_parser(__doc__, "heartbeat", "fewer training steps").parse_args()
    report.start(options.output)

    rate = load("data3.csv").sample_rate_hz
    parts = {name: split(load(name, rate), share) for name, (share, _) in PARTS.items()}
    for name, (first, last) in parts.items():
        console.print(
            f"[bold]{name}[/] at {rate:.2f} Hz: training on {len(cut(first))} windows with a "
            f"count each, {len(cut(last))} held out; off for {first.off.sum() / rate:.0f} s"
        )
    seen = joined(cut(first, PARTS[name][1]) for name, (first, _) in parts.items())
    begin = time.perf_counter()
    trained = fit(
        starts(rate),
        seen,
        density_steps=0,
        exact_steps=20 if options.quick else 40,
        learning_rate=0.05,
        batch=44,
        gains=(1.0, 1.0),  # the gate levels them out
        margin=MARGIN,
        report=lambda line: console.print(f"  {line}", style="dim"),
    ).pipeline
    trained_s = time.perf_counter() - begin
    console.print(f"trained in {trained_s:.1f} s:\n{trained}\n")

    model = compiled(trained)
    save(model, options.output)
    signals = [signal_of(part).numpy() for pair in parts.values() for part in pair]
    outputs, timing = run_on_board(model, signals, signals[1])
    device = {name: tuple(outputs[2 * i : 2 * i + 2]) for i, name in enumerate(parts)}
    found = {
        "recordings": {
            name: evaluate(*pair, trained, device[name]) for name, pair in parts.items()
        },
        "timing": timing,
        "memory": model.memory.to_json(),
        "verification": verified(
            trained, compiled(trained, taps=("band", "quality")), signal_of(parts["data3.csv"][1])
        ),
        "training_s": trained_s,
    }
    found["device_equals_pytorch"] = all(
        one["device_equals_pytorch"] for one in found["recordings"].values()
    )
    show(found)
    plot(parts["data3.csv"][1], trained, slice(60, 75), options.output / "heartbeat.png")
    plot(parts["data2.csv"][0], trained, slice(0, 60), options.output / "sensor_off.png")
    report.write(found, options.output)
    console.print(
        f"\nC files: {options.output / 'heartbeat.h'}, {options.output / 'heartbeat.c'}\n"
        f"archive: {options.output / 'heartbeat.tar'}\n"
        f"report:  {options.output / 'report.json'}, plots {options.output / '*.png'}"
    )


def split(recording: Recording, share: float) -> tuple[Recording, Recording]:
    """The first part to learn from and the rest to test on, at the border of a window."""
    windows = len(recording.samples) // WINDOW
    at = int(windows * share) * WINDOW
    return recording.between(0, at), recording.between(at, windows * WINDOW)


def cut(recording: Recording, overlap: int = 1) -> Windows:
    """Windows of about 10 s; `overlap` of them hear each moment."""
    length_s = WINDOW / recording.sample_rate_hz
    return cut_windows(
        signal_of(recording),
        torch.tensor(recording.peaks),
        length_s=length_s,
        hop_s=length_s / overlap,
        settle_s=SETTLE_S,
        sample_rate_hz=recording.sample_rate_hz,
        known=torch.tensor(recording.known),
    )


def signal_of(recording: Recording) -> torch.Tensor:
    return torch.tensor(recording.samples[None], dtype=torch.float32)


def compiled(trained: torch.nn.Module, taps: tuple[str, ...] = ()):
    return compile_for_device(trained, torch.zeros(1, BLOCK), "heartbeat", taps=taps)


def streamed(module: torch.nn.Module, recording: Recording) -> np.ndarray:
    """The running count after each block, in PyTorch."""
    return running_counts(module, signal_of(recording), BLOCK)


def known_counts(counts: np.ndarray, recording: Recording) -> np.ndarray:
    """Events per window in the known blocks, from the running count after each block."""
    return in_windows([counts], WINDOW_BLOCKS, recording.known.reshape(-1, BLOCK)[:, 0])


def while_off(counts: np.ndarray, recording: Recording) -> int:
    """Events while the sensor was off."""
    return int(in_windows([counts], 1, recording.off.reshape(-1, BLOCK)[:, 0]).sum())


def evaluate(
    first: Recording,
    last: Recording,
    trained: torch.nn.Module,
    device: tuple[np.ndarray, np.ndarray],
) -> dict:
    """Counts of the held-out part, and what is counted while the sensor is off in the first."""
    seen, windows = cut(first), cut(last)
    reference = windows.counts.numpy()
    per_sample = float(seen.counts.sum() / (seen.known.sum() - int(first.off.sum())))
    with torch.no_grad():
        windowed = window_counts(trained, windows).numpy()
    expected = [streamed(trained, part) for part in (first, last)]
    rows = {
        "reference": reference,
        "constant count": np.full(len(reference), float(seen.counts.median())),
        "constant rate": per_sample * windows.known.sum(-1).numpy(),
        "untrained, PyTorch": known_counts(
            streamed(pipeline(last.sample_rate_hz).eval(), last), last
        ),
        "trained, PyTorch": known_counts(expected[1], last),
        "trained, PyTorch windows": windowed,
        "trained, device": known_counts(device[1], last),
    }
    ungated = copy.deepcopy(trained)
    ungated.quality.off = 0.0
    return {
        "counts": errors(rows, reference),
        "off_s": float(first.off.sum() / first.sample_rate_hz),
        "counted_while_off": while_off(device[0], first),
        "counted_while_off_without_gate": while_off(streamed(ungated, first), first),
        "device_equals_pytorch": all_equal(device, expected),
    }


def show(found: dict) -> None:
    for name, one in found["recordings"].items():
        report.show_table(
            f"{name}: beats in the held-out part (known spans)",
            ("", "total", "error", "mean error a window"),
            (
                (label, f"{row['total']:.0f}", f"{100 * row['error']:.1f} %", f"{row['mae']:.3f}")
                for label, row in one["counts"].items()
            ),
        )
        if one["off_s"]:
            console.print(
                f"while the sensor was off ({one['off_s']:.0f} s of the first part): "
                f"{one['counted_while_off']} counted on the device, "
                f"{one['counted_while_off_without_gate']} without the gate"
            )
    report.show_device(found, BLOCK)


def plot(recording: Recording, trained: torch.nn.Module, seconds: slice, path: Path) -> None:
    rate = recording.sample_rate_hz
    signal = signal_of(recording)
    with torch.no_grad():
        envelope = trained.envelope(trained.band(signal))
        usual, quality = trained.quality.usual(envelope), trained.quality(envelope)
    events = plots.event_samples(trained.counter, quality)
    shown = slice(round(seconds.start * rate), round(seconds.stop * rate))
    t = np.arange(len(recording.samples)) / rate
    figure, axes = plots.stack(3)
    axes[0].plot(t[shown], recording.samples[shown], color="0.3")
    axes[0].set_ylabel("PPG (ADC steps)")
    axes[1].plot(t[shown], envelope[0].numpy()[shown], label="envelope")
    axes[1].plot(t[shown], usual[0].numpy()[shown], label="its usual height")
    axes[1].axhline(trained.quality.off, color="0.5", label="sensor off below")
    axes[1].set_ylabel(f"{trained.band.low_hz.item():.2f} to {trained.band.high_hz.item():.1f} Hz")
    axes[1].legend(loc="upper right")
    axes[2].plot(t[shown], quality[0].numpy()[shown])
    axes[2].set_ylabel("envelope / usual height")
    axes[2].set_xlabel(f"seconds of a part of {recording.name}")
    plots.draw_thresholds(axes[2], trained.counter, "upper right")
    plots.draw_events(axes, t, shown, events, recording.peaks)
    axes[0].set_title("green: counted beats; triangles: heartpy's accepted peaks")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
