"""Other libraries' code for the same jobs: one file each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.device.job import Code, Job
from benchmarks.device.peers import cmsis_dsp, emlearn, faust, naive
from microddsp.micro.targets import Target

# What a library makes of a job, with a folder for what it downloads and builds; None if it has
# nothing for that kind of job.
Peer = Callable[[Job, Target, Path], Code | None]

PEERS: dict[str, Peer] = {
    "CMSIS-DSP": cmsis_dsp.code,
    "Faust": faust.code,
    "emlearn": emlearn.code,
    "generic C": naive.code,
    "special C": naive.own_code,
}
