from __future__ import annotations

from pathlib import Path

from benchmarks.device.job import Code, Job
from microddsp.micro.targets import Target


def code(job: Job, target: Target, folder: Path) -> Code | None:
    return None
