"""Choose the sample rate of a counter by learning; compare with rates chosen by hand.

python examples/sample_rate/run.py [-o FOLDER] [--quick]
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import plots, report
from common.counting import all_equal, constant_error, errors, in_windows, running_counts
from common.device import compile_for_device, run_on_board, save
from common.plops import RATE, WINDOW_S, Recording, cut, record
from pipeline import fixed_rate, learned_rate

from microddsp.training import (
    Windows,
    count_loss,
    fit,
    lower_rate,
    relaxations,
    train,
    window_counts,
)

BLOCK = 320  # samples; 20 ms, and a multiple of many factors
FACTORS = (1, 2, 4, 5, 8, 10)
COSTS = (0.1, 1.0, 4.0)
STEPS = 240  # of which the last quarter, with a learned rate, is at that rate
BATCH = 16
console = report.console


def main() -> None:
    options = report.option_parser(__doc__, "sample_rate", "less data, fewer rates").parse_args()
    report.start(options.output)
    quick = options.quick
    seen = cut(record(64 if quick else 160, seed=1))
    held_out = record(40 if quick else 240, seed=2)
    steps = 120 if quick else STEPS
    console.print(
        f"training on {len(seen)} windows of {WINDOW_S:g} s with a count each, testing on "
        f"{len(held_out.samples) / RATE:.0f} s of other sounds; {steps} steps each"
    )
    rows, curves = [], {}
    for factor in (1,) if quick else FACTORS:
        trained = refine(fixed_rate(RATE, factor), seen, steps)
        rows.append(measure(trained, f"fixed, {RATE // factor} Hz", factor, held_out))
    for cost in (1.0,) if quick else COSTS:
        limited, curves[f"{cost:g}"] = learn(seen, cost, steps * 3 // 4)
        lowered = lower_rate(limited, block=BLOCK)
        trained = refine(lowered, seen, steps // 4)
        factor = trained[0][1].factor if isinstance(trained[0], torch.nn.Sequential) else 1
        rows.append(measure(trained, f"learned, cost {cost:g}", factor, held_out, options.output))
        console.print(f"  cost {cost:g}: {limited.limit.cutoff_hz.item():.0f} Hz are needed")
    found = {
        "rows": rows,
        "band_limit_hz": curves,
        "constant_error": constant_error(seen, cut(held_out)),
    }
    show(found)
    plot(found, options.output / "sample_rate.png")
    report.write(found, options.output)
    console.print(f"\nC files and archives of the learned rates, report and plot: {options.output}")


def refine(start: torch.nn.Module, seen: Windows, steps: int) -> torch.nn.Module:
    return fit(
        start,
        seen,
        density_steps=0,
        exact_steps=steps,
        learning_rate=0.05,
        batch=BATCH,
        check_every=30,
    ).pipeline


def learn(seen: Windows, cost: float, steps: int) -> tuple[torch.nn.Sequential, list[float]]:
    """A pipeline whose band limit has come down as far as the cost asks, and the way down in Hz."""
    module = learned_rate(RATE)

    def draw(generator: torch.Generator) -> Windows:
        return seen.select(torch.randperm(len(seen), generator=generator)[:BATCH])

    def objective(module: torch.nn.Module, part: Windows) -> torch.Tensor:
        missed = count_loss(window_counts(module, part), part.counts)
        return missed + cost * relaxations.cost(module)

    way: list[float] = []
    train(
        module,
        draw,
        objective,
        steps=steps,
        optimizer=partial(torch.optim.Adam, lr=0.05),
        after_step=lambda _: way.append(module.limit.cutoff_hz.item()),
        read=False,
    )
    return module, way


def measure(
    trained: torch.nn.Module,
    name: str,
    factor: int,
    held_out: Recording,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Error and cost on the device, for a recording that was not in the training."""
    model = compile_for_device(trained, torch.zeros(1, BLOCK), f"plops{RATE // factor}")
    if folder is not None:
        save(model, folder)
    signal = held_out.signal
    device, timing = run_on_board(model, [signal.numpy()], signal.numpy()[:, :RATE])
    reference = cut(held_out).counts.numpy()
    blocks = round(WINDOW_S * RATE) // BLOCK
    counted = errors({"device": in_windows(device, blocks)}, reference)["device"]
    return {
        "name": name,
        "sample_rate_hz": RATE / factor,
        "error": counted["error"],
        "total": counted["total"],
        "reference": float(reference.sum()),
        "instructions_per_s": timing["instructions_per_sample"] * RATE,
        "memory": model.memory.to_json(),
        "device_equals_pytorch": all_equal(device, [running_counts(trained, signal, BLOCK)]),
    }


def show(found: dict[str, Any]) -> None:
    rows = found["rows"]
    report.show_table(
        "plops of a recording that was not in the training, on the device",
        ("", "Hz", "error", "1000 instructions/s", "flash", "RAM"),
        (
            (
                row["name"],
                f"{row['sample_rate_hz']:.0f}",
                f"{100 * row['error']:.1f} %",
                f"{row['instructions_per_s'] / 1000:.0f}",
                str(row["memory"]["flash_bytes"]),
                str(row["memory"]["ram_bytes"]),
            )
            for row in rows
        ),
    )
    report.show_counts_note(WINDOW_S, found["constant_error"], rows)


def plot(found: dict[str, Any], path: Path) -> None:
    figure, (left, right) = plots.side_by_side(2)
    for cost, way in found["band_limit_hz"].items():
        left.plot(way, label=f"cost {cost}")
    left.set_yscale("log")
    left.set_xlabel("training step")
    left.set_ylabel("band limit (Hz)")
    left.legend()
    plots.draw_trade(
        right,
        {
            kind: [
                (row["instructions_per_s"] / 1000, 100 * row["error"], label)
                for row in found["rows"]
                if row["name"].startswith(kind)
                for label in [row["name"].split(", ")[1]]
            ]
            for kind in ("fixed", "learned")
        },
    )
    right.set_xlabel("1000 instructions a second of signal, Cortex-M4F on QEMU")
    right.set_ylabel("error (%)")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
