"""A project's firmware started once, and what it says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class ProjectReport:
    """What the firmware does with blocks of silence. Bytes; `count` is what one block takes, in
    instructions, cycles or nanoseconds as `unit` says."""

    board: str
    model: str
    unit: str
    count: float
    stack_bytes: int
    free_ram_bytes: int
    outputs: dict[str, list[int]]

    def to_json(self) -> dict[str, Any]:
        return {k.replace("count", self.unit): v for k, v in asdict(self).items() if k != "unit"}


def run_project(
    directory: str | Path,
    *,
    timeout_s: float = 5.0,
    port: str | None = None,
    serial_number: str | None = None,
    options: Mapping[str, str] | None = None,
) -> ProjectReport:
    """Start a built project, run a block of zeros and report.

    Raises:
        BoardError: No project, or it is not built.
        LinkError: The device does not come up or reports an error.
    """
    import numpy as np

    from microddsp.micro.rpc.link import call
    from microddsp.micro.session import open_project

    with open_project(
        directory, timeout_s=timeout_s, port=port, serial_number=serial_number, options=options
    ) as board:
        signature = board.signature
        silence = [
            np.zeros(spec.shape[::-1] if spec.interleaved else spec.shape, spec.dtype)
            for spec in signature.inputs
        ]
        board.run(*silence)
        device = board.session.cpu(0)
        return ProjectReport(
            board=board.board.name,
            model=signature.name,
            unit=board.board.unit,
            count=board.time(*silence).count_median,
            stack_bytes=board.stack_bytes(),
            free_ram_bytes=int(call(lambda: device.available_global_memory)),
            outputs={spec.name: list(spec.shape) for spec in signature.outputs},
        )
