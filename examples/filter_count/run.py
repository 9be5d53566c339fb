"""Choose how many filters a counter needs by learning; compare costs.

python examples/filter_count/run.py [-o FOLDER] [--quick]
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
from common.plops import PLOP, WINDOW_S, Recording, cut, record
from pipeline import edges_hz, gated

from microddsp.training import Row, Windows, count_loss, fit, relaxations, train, window_counts

RATE = 8000
BLOCK = 160  # samples; 20 ms
CANDIDATES = 10
# Cost of a filter in missed events, and gates up to which filters are pruned; first all are kept.
RUNS = ((None, 0.0), (0.1, 0.01), (1.0, 0.01), (1.0, 0.05), (1.0, 0.2), (1.0, 0.5))
QUICK_RUNS = ((None, 0.0), (1.0, 0.2))
STEPS = 150  # with gates; as many more without them
BATCH = 8
console = report.console


def main() -> None:
    options = report.option_parser(__doc__, "filter_count", "less data, one cost").parse_args()
    report.start(options.output)
    quick = options.quick
    seen = cut(record(64 if quick else 96, 1, RATE))
    held_out = record(40 if quick else 240, 2, RATE)
    steps = 80 if quick else STEPS
    console.print(
        f"training on {len(seen)} windows of {WINDOW_S:g} s with a count each, testing on "
        f"{len(held_out.samples) / RATE:.0f} s of other sounds"
    )
    banks = {}
    for cost in dict(QUICK_RUNS if quick else RUNS):
        banks[cost] = gated(RATE, 6 if quick else CANDIDATES)
        if cost is not None:
            close_gates(banks[cost], seen, cost, steps)
    rows = []
    for cost, below in QUICK_RUNS if quick else RUNS:
        pruned = relaxations.prune(banks[cost], below=below).requires_grad_(True)
        trained = refine(pruned, seen, steps)
        name = "all" if cost is None else f"cost {cost:g}, > {below:g}"
        rows.append({"name": name} | measure(trained, held_out, options.output))
        console.print(f"  {name}: {rows[-1]['filters']} filters")
    found = {
        "rows": rows,
        "gates": {f"cost {c:g}": b.bank.gates.tolist() for c, b in banks.items() if c is not None},
        "constant_error": constant_error(seen, cut(held_out)),
    }
    show(found)
    plot(found, options.output / "filter_count.png")
    report.write(found, options.output)
    console.print(f"\nC files, archives, report and plot: {options.output}")


def close_gates(bank: torch.nn.Module, seen: Windows, cost: float, steps: int) -> None:
    """Learn which candidates are worth their cost, with the smooth density of events.

    A gate that has closed has no slope and stays so: the cost comes late and slowly, when the
    candidates that are needed have opened.
    """
    done = 0

    def draw(generator: torch.Generator) -> Windows:
        return seen.select(torch.randperm(len(seen), generator=generator)[:BATCH])

    def objective(module: torch.nn.Module, part: Windows) -> torch.Tensor:
        missed = count_loss(window_counts(module, part), part.counts)
        share = min(max(3 * done / steps - 1, 0.0), 1.0)  # none for a third, full after another
        return missed + cost * share * relaxations.cost(module)

    def after_step(row: Row) -> None:
        nonlocal done
        done = row.step + 1

    with bank.counter.density():
        train(
            bank,
            draw,
            objective,
            steps=steps,
            optimizer=partial(torch.optim.Adam, lr=0.1),
            after_step=after_step,
            read=False,
        )


def refine(start: torch.nn.Module, seen: Windows, steps: int) -> torch.nn.Module:
    """Everything that is left, edges and thresholds too, with the exact counter."""
    return fit(
        start,
        seen,
        density_steps=steps // 4,
        exact_steps=steps - steps // 4,
        learning_rate=0.05,
        batch=BATCH,
        check_every=50,
        gains=(1.0, 1.0),
    ).pipeline


def measure(trained: torch.nn.Module, held_out: Recording, folder: Path) -> dict[str, Any]:
    """Error and cost on the device, for a recording that was not in the training."""
    filters = sum(type(part).__name__ == "Bandpass" for part in trained.modules())
    model = compile_for_device(trained, torch.zeros(1, BLOCK), f"plops_of_{filters}")
    save(model, folder)
    signal = held_out.signal
    device, timing = run_on_board(model, [signal.numpy()], signal.numpy()[:, :RATE])
    reference = cut(held_out).counts.numpy()
    counts = in_windows(device, round(WINDOW_S * RATE) // BLOCK)
    return {
        "filters": filters,
        "error": errors({"device": counts}, reference)["device"]["error"],
        "instructions_per_sample": timing["instructions_per_sample"],
        "memory": model.memory.to_json(),
        "device_equals_pytorch": all_equal(device, [running_counts(trained, signal, BLOCK)]),
    }


def show(found: dict[str, Any]) -> None:
    rows = found["rows"]
    report.show_table(
        "plops of a recording that was not in the training, on the device",
        ("", "filters", "error", "instructions/sample", "flash", "RAM"),
        (
            (
                row["name"],
                str(row["filters"]),
                f"{100 * row['error']:.1f} %",
                f"{row['instructions_per_sample']:.1f}",
                str(row["memory"]["flash_bytes"]),
                str(row["memory"]["ram_bytes"]),
            )
            for row in rows
        ),
    )
    report.show_counts_note(WINDOW_S, found["constant_error"], rows)


def plot(found: dict[str, Any], path: Path) -> None:
    figure, (left, right) = plots.side_by_side(2)
    for cost, gates in found["gates"].items():
        left.stairs(gates, edges_hz(len(gates)), label=cost, linewidth=2)
    left.axvspan(*PLOP.hz, color="tab:green", alpha=0.2, label="plops")
    left.set_xscale("log")
    left.set_xticks([200, 500, 1000, 2000], ["200", "500", "1000", "2000"])
    left.minorticks_off()
    left.set_xlabel("Hz of the candidates")
    left.set_ylabel("gate")
    left.legend()
    plots.draw_trade(
        right,
        {
            kind: [
                (row["instructions_per_sample"], 100 * row["error"], f"{row['filters']}")
                for row in rows
            ]
            for kind, rows in (("all filters", found["rows"][:1]), ("pruned", found["rows"][1:]))
        },
    )
    right.set_xlabel("instructions a sample, Cortex-M4F on QEMU")
    right.set_ylabel("error (%)")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
