"""Replace the Fourier transform of log-mel features by cheaper things; measure what that costs.

python examples/approximate/run.py [-o FOLDER] [--quick]
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import plots, report
from common.device import compile_for_device, run_on_board, save, verified
from common.plops import record
from pipeline import BANDS, HOP, filterbank, log_mel, matrix_products, shorter_frames

from microddsp.training import Batch, round_weights, rows, train

RATE = 8000
CLIP = 128 * HOP  # samples; about 2 s
SETTLE = 4  # frames at the start of a clip that are not compared
FEWER = (16, 8, 4, 2)
STEPS = 120
QUICK = (f"frames of {HOP}", "time domain", "matrix product, 8 bits")
NOISE = 0.02  # less than for counting: otherwise most of what is compared is noise
console = report.console


def main() -> None:
    options = report.option_parser(__doc__, "approximate", "less data, fewer models").parse_args()
    report.start(options.output)
    quick = options.quick
    reference = log_mel(RATE).eval()
    seen = batch_of(reference, record(20 if quick else 80, 1, RATE, NOISE).signal)
    held_out = record(10 if quick else 60, 2, RATE, NOISE).signal
    held_out = held_out[:, : held_out.shape[-1] // CLIP * CLIP]
    found = [measure(reference, f"frames of {2 * HOP}", reference, held_out)]
    for name, make, bits in (
        (f"frames of {HOP}", shorter_frames, 0),
        ("time domain", filterbank, 0),
        ("matrix product", matrix_products, 0),
        ("matrix product, 16 bits", matrix_products, 16),
        ("matrix product, 8 bits", matrix_products, 8),
    ):
        if quick and name not in QUICK:
            continue
        for bands in (4,) if quick else FEWER:
            module = make(RATE, bands)
            if bits:
                round_weights(module, bits=bits)
            centre(module, seen)
            before = rms_db(module, batch_of(reference, held_out))
            learn(module, seen, 20 if quick else STEPS)
            row = measure(module.eval(), name, reference, held_out, options.output, bool(bits))
            found.append(row | {"bands": bands, "rms_db_before": before})
            console.print(f"  {name}, {bands} bands: {before:.1f} dB, then {row['rms_db']:.1f} dB")
    spread = float(batch_of(reference, held_out).targets[..., SETTLE:].std())
    summary = {"rows": found, "spread_db": spread}
    show(summary)
    plot(summary, options.output / "approximate.png")
    report.write(summary, options.output)
    console.print(f"\nC files, archives, report and plot: {options.output}")


def batch_of(reference: torch.nn.Module, signal: torch.Tensor) -> Batch:
    """Clips (clips, 1, samples) and what the reference makes of them."""
    whole = signal.shape[-1] // CLIP * CLIP
    clips = signal[:, :whole].reshape(-1, 1, CLIP)
    with torch.no_grad():
        return Batch(clips, reference(clips))


@torch.no_grad()
def centre(module: torch.nn.Module, seen: Batch) -> None:
    """Start with the right mean in each band: what cannot be heard is no error."""
    apart = seen.targets - module(seen.signals)
    module[-1].offset.copy_(apart[..., SETTLE:].mean((0, 2)))


def squares(module: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Mean square of the distance in dB."""
    return (module(batch.signals) - batch.targets)[..., SETTLE:].square().mean()


def learn(module: torch.nn.Module, seen: Batch, steps: int) -> None:
    train(
        module,
        rows(seen, 4),
        squares,
        steps=steps,
        optimizer=partial(torch.optim.Adam, lr=0.02),
        schedule=lambda adam: torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps),
        read=False,
    )


@torch.no_grad()
def rms_db(module: torch.nn.Module, batch: Batch) -> float:
    return float(squares(module, batch).sqrt())


def measure(
    module: torch.nn.Module,
    name: str,
    reference: torch.nn.Module,
    held_out: torch.Tensor,
    folder: Path | None = None,
    narrow: bool = False,
) -> dict[str, Any]:
    """Distance from the reference on the device, and the cost there."""
    model = compile_for_device(module, torch.zeros(1, HOP), "features", narrow=narrow)
    if folder is not None:
        save(model, folder)
    [device], timing = run_on_board(model, [held_out.numpy()], held_out.numpy()[:, : 10 * HOP])
    with torch.no_grad():
        target = reference(held_out)
    apart = (torch.from_numpy(device) - target)[..., SETTLE:]
    return {
        "name": name,
        "bands": BANDS,
        "rms_db": float(apart.square().mean().sqrt()),
        "instructions_per_sample": timing["instructions_per_sample"],
        "memory": model.memory.to_json(),
        "verification": verified(module, model, held_out[:, : 32 * HOP]),
    }


def show(summary: dict[str, Any]) -> None:
    report.show_table(
        f"{BANDS} log-mel bands of a recording that was not in the training, on the device",
        ("", "bands", "error", "instructions/sample", "flash", "RAM"),
        (
            (
                row["name"],
                str(row["bands"]),
                f"{row['rms_db']:.2f} dB",
                f"{row['instructions_per_sample']:.1f}",
                str(row["memory"]["flash_bytes"]),
                str(row["memory"]["ram_bytes"]),
            )
            for row in summary["rows"]
        ),
    )
    console.print(
        "error: root mean square over bands and frames; always giving the mean: "
        f"{summary['spread_db']:.1f} dB"
    )
    passed = all(
        output["passed"] for row in summary["rows"] for output in row["verification"]["outputs"]
    )
    console.print(f"device and PyTorch agree within float32: {passed}")


def plot(summary: dict[str, Any], path: Path) -> None:
    figure, (left, right) = plots.side_by_side(2)
    kinds = list(dict.fromkeys(row["name"] for row in summary["rows"]))
    for axis, cost_of, name in (
        (left, lambda row: row["instructions_per_sample"], "instructions a sample"),
        (right, lambda row: row["memory"]["ram_bytes"], "RAM (bytes)"),
    ):
        plots.draw_trade(
            axis,
            {
                kind: [
                    (cost_of(row), row["rms_db"], f"{row['bands']} bands")
                    for row in summary["rows"]
                    if row["name"] == kind
                ]
                for kind in kinds
            },
        )
        axis.set_xlabel(f"{name}, Cortex-M4F")
        axis.set_ylabel("error (dB)")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
