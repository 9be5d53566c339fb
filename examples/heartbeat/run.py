"""Train a heart-beat counter from counts, compile it, run it on a Cortex-M4F in QEMU.

python examples/heartbeat/run.py [-o FOLDER] [--quick]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import plots, report
from common.counting import errors, in_windows, running_counts
from common.device import compile_for_device, run_on_board, save, verified
from data import BLOCK, Recording, load
from pipeline import pipeline, starts

from microddsp.training import Windows, cut_windows, fit, window_counts

WINDOW_BLOCKS = 16  # about 10 s
SETTLE_S = 5.0
console = report.console


def main() -> None:
    options = report.option_parser(__doc__, "heartbeat", "fewer training steps").parse_args()
    report.start(options.output)

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

    model = compiled(trained)
    save(model, options.output)
    signal = signal_of(held_out).numpy()
    [device], timing = run_on_board(model, [signal], signal)
    found = evaluate(training, held_out, untrained, trained, device)
    found["timing"] = timing
    found["memory"] = model.memory.to_json()
    tapped = compiled(trained, taps=("band", "envelope"))
    found["verification"] = verified(trained, tapped, signal_of(held_out))
    found["noisy"] = noisy(trained)
    found["training_s"] = trained_s
    show(found)
    plot(held_out, trained, options.output / "heartbeat.png")
    report.write(found, options.output)
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


def counted(module: torch.nn.Module, recording: Recording) -> np.ndarray:
    """Events per window in the known blocks, in PyTorch block by block."""
    return known_counts(running_counts(module, signal_of(recording), BLOCK), recording)


def known_counts(counts: np.ndarray, recording: Recording) -> np.ndarray:
    """Events per window in the known blocks, from the running count after each block."""
    return in_windows([counts], WINDOW_BLOCKS, recording.known.reshape(-1, BLOCK)[:, 0])


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
        "untrained, PyTorch": counted(untrained, held_out),
        "trained, PyTorch": counted(trained, held_out),
        "trained, PyTorch windows": windowed,
        "trained, device": known_counts(device, held_out),
    }
    expected = running_counts(trained, signal_of(held_out), BLOCK)
    return {
        "counts": errors(rows, reference),
        "device_equals_pytorch": bool(np.array_equal(device, expected)),
    }


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
    found = counted(other, shown)
    reference = cut(shown).counts.numpy()
    return {
        "total": float(found.sum()),
        "reference": float(reference.sum()),
        "mae": float(np.abs(found - reference).mean()),
        "known_share": float(shown.known.mean()),
    }


def show(found: dict) -> None:
    report.show_table(
        "beats in the held-out third (known spans)",
        ("", "total", "mean error a window"),
        (
            (name, f"{row['total']:.0f}", f"{row['mae']:.3f}")
            for name, row in found["counts"].items()
        ),
    )
    noisy_row = found["noisy"]
    share = 100 * noisy_row["known_share"]
    console.print(
        f"data2.csv (noisy, {share:.0f} % known): {noisy_row['total']:.0f} "
        f"counted, reference {noisy_row['reference']:.0f}, mean error {noisy_row['mae']:.2f}"
    )
    report.show_device(found, BLOCK)


def plot(recording: Recording, trained: torch.nn.Module, path: Path) -> None:
    rate = recording.sample_rate_hz
    signal = signal_of(recording)
    with torch.no_grad():
        band = trained.band(signal)
        envelope = trained.envelope(trained.scale(band))
    events = plots.event_samples(trained.counter, envelope)
    shown = slice(round(60 * rate), round(75 * rate))
    t = np.arange(len(recording.samples)) / rate
    figure, axes = plots.stack(3)
    axes[0].plot(t[shown], recording.samples[shown], color="0.3")
    axes[0].set_ylabel("PPG (ADC steps)")
    axes[1].plot(t[shown], band[0].numpy()[shown])
    axes[1].set_ylabel(f"{trained.band.low_hz.item():.2f} to {trained.band.high_hz.item():.1f} Hz")
    axes[2].plot(t[shown], envelope[0].numpy()[shown])
    plots.draw_thresholds(axes[2], trained.counter, "upper right")
    axes[2].set_ylabel("envelope")
    axes[2].set_xlabel("seconds of the held-out part")
    plots.draw_events(axes, t, shown, events, recording.peaks)
    axes[0].set_title("green: counted beats; triangles: heartpy's accepted peaks")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
