"""Time of training: forward and backward passes, float32, beside those of others.

    python -m benchmarks.training [--strict] [--json] [SECONDS]

Everything runs on one thread unless the row says two, in turns; the fastest run of each counts, as
the machine may be busy. The ratio is the time of the fastest other to ours. A loop over samples is
measured with fewer of them and its time scaled up: the row that compares half and whole loops
shows that it is linear. A ratio below its goal is said at the end, and ends the program with
status 1 only with --strict.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial

import torch

from benchmarks.training.clock import Run, take_turns
from benchmarks.training.job import Job
from benchmarks.training.jobs import all_jobs


def measure(job: Job, seconds: float) -> dict[str, float]:
    """The fastest run of each, in ms of the whole work."""

    def on(threads: int, run: Run) -> object:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        return run()

    runs = {name: partial(on, job.threads.get(name, 1), run) for name, run in job.runs.items()}
    times = take_turns(runs, seconds)
    torch.set_num_threads(1)
    return {name: t.fastest * job.times_as_much.get(name, 1.0) for name, t in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seconds", nargs="?", type=float, default=2.0, help="per run; 2")
    parser.add_argument("--strict", action="store_true", help="exit 1 if a goal is missed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, missed = [], []
    for job in all_jobs():
        times = measure(job, options.seconds)
        others = {name: time for name, time in times.items() if name != job.ours}
        best = min(others, key=lambda name: others[name], default="")
        ratio = others[best] / times[job.ours] if best else None
        rows.append({"job": job.name, "ms": times, "best": best, "ratio": ratio, "goal": job.goal})
        if not options.json:
            shown = "  ".join(f"{name} {time:.3f}" for name, time in times.items())
            goal = "" if job.goal is None else f" (goal {job.goal:g})"
            against = f"{ratio:.2f}{goal}" if ratio is not None else "no other"
            print(f"{job.name:<38} {against:<18} ms: {shown}", flush=True)
        if job.goal is not None and ratio is not None and ratio < job.goal:
            missed.append(f"{job.name}: {ratio:.2f} times, goal {job.goal:g}")
    if options.json:
        print(json.dumps(rows, indent=2))
    for line in missed:
        print(f"goal missed: {line}", file=sys.stderr)
    return 1 if missed and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
