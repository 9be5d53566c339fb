"""A project's firmware started once, and what it says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from microddsp.micro.remote_model import RemoteModel
    from microddsp.micro.session import BoardSession


@dataclass(frozen=True, slots=True)
class ProjectReport:
    """What a model of the firmware does with blocks of silence. Bytes; `count` is what one block
    takes, in instructions, cycles or nanoseconds as `unit` says."""

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
) -> tuple[ProjectReport, ...]:
    """Start a built project, run a block of zeros through each of its models and report.

    Raises:
        BoardError: No project, or it is not built.
        LinkError: The device does not come up or reports an error.
    """
    from microddsp.micro.session import open_project

    with open_project(
        directory, timeout_s=timeout_s, port=port, serial_number=serial_number, options=options
    ) as session:
        return tuple(_report(session, model) for model in session.models.values())


def _report(session: BoardSession, model: RemoteModel) -> ProjectReport:
    import numpy as np

    from microddsp.micro.rpc.link import call

    signature = model.signature
    silence = [
        np.zeros(spec.shape[::-1] if spec.interleaved else spec.shape, spec.dtype)
        for spec in signature.inputs
    ]
    model.run(*silence)
    device = session.session.cpu(0)
    return ProjectReport(
        board=session.board.name,
        model=signature.name,
        unit=session.board.unit,
        count=model.time(*silence).count_median,
        stack_bytes=model.stack_bytes(),
        free_ram_bytes=int(call(lambda: device.available_global_memory)),
        outputs={spec.name: list(spec.shape) for spec in signature.outputs},
    )
