"""The jobs, and the goal of each."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.training import loops
from benchmarks.training.cascades import SAMPLES, available, training_run
from benchmarks.training.job import OURS, Job
from microddsp import dsp

# (sections, signals): how many times faster than the best of the others
CASCADES = {(1, 8): None, (4, 8): 10.0, (1, 1): 1.0, (4, 1): 1.0}
# A row of the vector unit holds eight signals: what is computed together needs no second thread.
THREADS = {8: None, 16: 1.6, 32: 1.6}
LOOP_SAMPLES = 1000
RECURSION_SAMPLES = 500


def cascades() -> list[Job]:
    """Cascades of filter sections by every library that is there."""
    libraries = available()
    return [
        Job(
            f"{sections} sections, {signals} x {SAMPLES}",
            {name: training_run(make, sections, signals) for name, make in libraries.items()},
            goal,
        )
        for (sections, signals), goal in CASCADES.items()
    ]


def threads() -> list[Job]:
    """Four sections on one and on two threads."""
    cascade = available()[OURS]
    jobs = []
    for signals, goal in THREADS.items():
        run = training_run(cascade, 4, signals)
        name = f"2 threads, 4 sections, {signals} x {SAMPLES}"
        jobs.append(Job(name, {OURS: run, "1 thread": run}, goal, threads={OURS: 2, "1 thread": 1}))
    return jobs


def blocks() -> list[Job]:
    """Envelope and counter beside a loop over samples."""
    scale = SAMPLES / LOOP_SAMPLES
    envelope, counter = loops.envelope_block(), loops.counter_block()
    made = (
        ("envelope", envelope, loops.envelope_loop, (0.06, 0.006)),
        ("event counter", counter, loops.counter_loop, (0.5, 0.25)),
    )
    return [
        Job(
            f"{name}, {loops.SIGNALS} x {SAMPLES}",
            {
                OURS: loops.of_block(block, SAMPLES),
                "torch loop": loops.passes(loop, LOOP_SAMPLES, values),
            },
            10.0,
            times_as_much={"torch loop": scale},
        )
        for name, block, loop, values in made
    ]


def linear() -> Job:
    """The claim that a loop takes time in proportion to its samples: a ratio of one."""
    half, values = LOOP_SAMPLES // 2, (0.06, 0.006)
    return Job(
        f"envelope loop, {half} against {LOOP_SAMPLES} samples",
        {
            "whole": loops.passes(loops.envelope_loop, LOOP_SAMPLES, values),
            "half": loops.passes(loops.envelope_loop, half, values),
        },
        times_as_much={"half": 2.0},
        ours="whole",
    )


def recursions() -> list[Job]:
    """A user's own recursion, each way of it against the loop."""
    values = (0.1, 2.0)
    runs = {
        name: loops.passes(make, RECURSION_SAMPLES, values)
        for name, make in loops.RECURSIONS.items()
    }
    runs[OURS] = loops.of_block(loops.leak_block(), RECURSION_SAMPLES)
    expected = runs["loop"]()
    jobs = []
    for name, goal in ((OURS, 10.0), ("torch's scan", None)):
        for got, wanted in zip(runs[name](), expected, strict=False):  # signal and its gradient
            torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)
        title = f"own recursion, {loops.SIGNALS} x {RECURSION_SAMPLES}"
        jobs.append(Job(title, {name: runs[name], "loop": runs["loop"]}, goal, ours=name))
    return jobs


def pipeline() -> Job:
    """A whole pipeline that counts, on one and on two threads."""
    block = torch.nn.Sequential(
        dsp.Bandpass(90.0, 700.0, 4, sample_rate_hz=loops.RATE_HZ),
        loops.envelope_block(),
        loops.counter_block(),
    )
    run = loops.of_block(block, SAMPLES)
    return Job(
        f"2 threads, band-pass to count, 8 x {SAMPLES}",
        {OURS: run, "1 thread": run},
        threads={OURS: 2, "1 thread": 1},
    )


def all_jobs() -> Iterator[Job]:
    """In the order of the table."""
    yield from cascades()
    yield from blocks()
    yield linear()
    yield from threads()
    yield pipeline()
    yield from recursions()
