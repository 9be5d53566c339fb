"""Train a stroke counter from counts, compile it, run it on a Cortex-M4F in QEMU.

python examples/rowing/run.py [-o FOLDER] [--quick]
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import plots, report
from common.counting import all_equal, errors, in_windows, joined, running_counts
from common.device import compile_for_device, run_on_board, save, verified
from data import RATE, SCALE, Bout, Recording, row, walk
from pipeline import pipeline

import microddsp
from microddsp.training import Windows, cut_windows, fit, window_counts

WINDOW_S = 20
SETTLE_S = 5
BLOCK = 50  # samples; a second
SENSOR = microddsp.Input(dtype="s16", interleaved=True, scale=SCALE, unit="m/s^2")
console = report.console


def main() -> None:
    parser = report.option_parser(__doc__, "rowing", "less data, fewer training steps")
    options = parser.parse_args()
    report.start(options.output)

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

    model = compiled(trained, "rowing")
    save(model, options.output)
    raw = [outing.samples.T for outing in held_out]
    device, timing = run_on_board(model, raw, raw[0])
    found = evaluate(seen, held_out, trained, device)
    found["timing"] = timing
    found["memory"] = model.memory.to_json()
    found["verification"] = verified(trained, compiled(trained, "rowing", taps=("band",)), raw[0])
    found["training_s"] = trained_s
    found["walk"] = steps(walk()) if importlib.util.find_spec("gaitpy") else None
    show(found)
    plot(held_out[0], trained, options.output / "rowing.png")
    report.write(found, options.output)
    console.print(f"\nC files, archive, report and plot: {options.output}")


def signal_of(raw: np.ndarray) -> torch.Tensor:
    """(3, samples) in m/s^2, as the device converts it."""
    return torch.tensor(raw.T.astype("float32")) * SCALE


def cut(outings: list[Recording]) -> Windows:
    return joined(
        cut_windows(
            signal_of(outing.samples),
            torch.tensor(outing.strokes),
            length_s=WINDOW_S,
            settle_s=SETTLE_S,
            sample_rate_hz=RATE,
        )
        for outing in outings
    )


def compiled(trained: torch.nn.Module, name: str, taps: tuple[str, ...] = ()):
    return compile_for_device(trained, torch.zeros(3, BLOCK), name, input=SENSOR, taps=taps)


def evaluate(
    seen: Windows, held_out: list[Recording], trained: torch.nn.Module, device: list[np.ndarray]
) -> dict:
    def counted(module: torch.nn.Module) -> list[np.ndarray]:
        return [running_counts(module, signal_of(o.samples), BLOCK) for o in held_out]

    blocks = WINDOW_S * RATE // BLOCK
    expected = counted(trained)
    reference = cut(held_out).counts.numpy()
    rows = {
        "reference": reference,
        "constant count": np.full(len(reference), float(seen.counts.median())),
        "untrained, PyTorch": in_windows(counted(pipeline(RATE).eval()), blocks),
        "trained, PyTorch": in_windows(expected, blocks),
        "trained, device": in_windows(device, blocks),
    }
    return {
        "counts": errors(rows, reference),
        "device_equals_pytorch": all_equal(device, expected),
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
    raw = [bout.samples.T for bout in bouts]
    outputs, _ = run_on_board(compiled(trained, "steps"), raw, raw[0])
    device = [int(output.reshape(-1)[-1]) for output in outputs]
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


def show(found: dict) -> None:
    title = f"strokes of the held-out crews, in windows of {WINDOW_S} s"
    report.show_error_shares(title, found["counts"])
    console.print("error: sum of |counted - reference| of all windows / sum of the reference")
    if found["walk"] is None:
        console.print("steps: left out, gaitpy is missing (pip install --no-deps gaitpy)")
    else:
        report.show_table(
            "steps of a real walker (gaitpy); the last walk is held out",
            ("", "walk 1", "walk 2", "walk 3"),
            (
                (name, *(f"{value:.0f}" for value in values))
                for name, values in found["walk"].items()
            ),
        )
    report.show_device(found)


def plot(outing: Recording, trained: torch.nn.Module, path: Path) -> None:
    signal = signal_of(outing.samples)
    with torch.no_grad():
        band = trained.band(trained.sum(trained.direction(signal)))
    events = plots.event_samples(trained.counter, band)
    begin = int(outing.strokes[0])
    shown = slice(max(0, begin - 4 * RATE), begin + 26 * RATE)
    t = np.arange(len(outing.samples)) / RATE
    figure, axes = plots.stack(3)
    axes[0].plot(t[shown], outing.boat[shown], color="0.3")
    axes[0].set_ylabel("boat alone (m/s²)")
    offset = signal.median(dim=-1, keepdim=True).values
    for line, name in zip((signal - offset).numpy(), "xyz", strict=True):
        axes[1].plot(t[shown], line[shown], linewidth=0.7, label=name)
    axes[1].set_ylabel("sensor, less offset (m/s²)")
    axes[1].legend(loc="lower right")
    axes[2].plot(t[shown], band[0].numpy()[shown])
    plots.draw_thresholds(axes[2], trained.counter)
    axes[2].set_ylabel(f"{trained.band.low_hz.item():.2f} to {trained.band.high_hz.item():.2f} Hz")
    axes[2].set_xlabel("seconds")
    plots.draw_events(axes, t, shown, events, outing.strokes)
    axes[0].set_title("green: counted strokes; triangles: where strokes begin")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
