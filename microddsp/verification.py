"""Is what the device computes what PyTorch computes? Measured, per output."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microddsp.dsp.input_rate import input_rate_hz
from microddsp.errors import SignalError, VerificationError
from microddsp.micro.boards import Board
from microddsp.reference import CounterMargin, reference_outputs
from microddsp.signature import OutputStructure, TensorSpec
from microddsp.streams import split_blocks

if TYPE_CHECKING:
    import torch

    from microddsp.micro.package.model import CompiledModel
    from microddsp.micro.session import BoardSession

    Array = np.ndarray | torch.Tensor

# Below this, float32 arithmetic in another order is all there is to see.
LEAST_TOLERANCE = 1e-5
OTHER_PIPELINE = "is this the pipeline that the model was compiled from?"


@dataclass(frozen=True, slots=True)
class OutputReport:
    """One output against PyTorch in float32; errors relative to the largest reference value.

    `float32_error` is PyTorch's own, against float64. Integers must be equal: their `tolerance` is
    0 and `mismatches` counts the elements that differ.
    """

    name: str
    dtype: str
    max_abs_error: float
    max_rel_error: float
    snr_db: float
    float32_error: float
    tolerance: float
    mismatches: int
    passed: bool


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first element outside the tolerance. `index` is inside the block's tensor."""

    output: str
    block: int
    index: tuple[int, ...]
    sample: int | None
    expected: float
    got: float

    def __str__(self) -> str:
        place = "" if self.sample is None else f", sample {self.sample} of the signal"
        return (
            f"first divergence: output {self.output!r}, block {self.block}, index "
            f"{list(self.index)}{place}: expected {self.expected:.9g}, got {self.got:.9g}"
        )


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """What `verify` measured. `board` is "host" where no board was used."""

    model: str
    board: str
    blocks: int
    outputs: tuple[OutputReport, ...]
    counters: tuple[CounterMargin, ...]
    divergence: Divergence | None = None

    @property
    def passed(self) -> bool:
        return all(output.passed for output in self.outputs)

    def to_json(self) -> dict[str, Any]:
        """Plain data; an SNR without any error is null."""
        data = asdict(self) | {"passed": self.passed}
        return {key: _finite(value) for key, value in data.items()}

    def __str__(self) -> str:
        rows = [("output", "type", "max abs", "max rel", "SNR dB", "float32", "tolerance", "")]
        rows += [
            (
                *(o.name, o.dtype, f"{o.max_abs_error:.3g}", f"{o.max_rel_error:.3g}"),
                *(f"{o.snr_db:.1f}", f"{o.float32_error:.3g}", f"{o.tolerance:.3g}"),
                "ok" if o.passed else f"differs in {o.mismatches}",
            )
            for o in self.outputs
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [f"{self.model} on {self.board}, {self.blocks} blocks, against PyTorch"]
        lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        lines += [str(margin) for margin in self.counters]
        if self.divergence is not None:
            lines.append(str(self.divergence))
        return "\n".join(lines)


def verify(
    pipeline: torch.nn.Module,
    model: CompiledModel,
    *inputs: Array,
    board: str | Board | BoardSession | None = None,
    tolerance: float | None = None,
    locate: bool = False,
) -> VerificationReport:
    """Stream signals through the pipeline and the compiled model; compare every output.

    Args:
        pipeline: What was compiled; it is not changed.
        model: The compiled model; it is reset.
        inputs: Signals (channels, samples) as the device takes them, whole blocks.
        board: A name or an open session, of several models too; None runs the C on this computer.
        tolerance: Largest error relative to the largest reference value, for outputs of floats;
            by default 1e-5 or twice PyTorch's own float32 error, whichever is larger.
        locate: Name the first diverging block, sample and output in the error.

    Raises:
        VerificationError: An output is outside the tolerance, or a count differs.
        SignalError: The signals do not fit the model.
        BoardError: The board cannot be used.
    """
    report = compare(pipeline, model, *inputs, board=board, tolerance=tolerance, locate=locate)
    if not report.passed:
        raise VerificationError(
            str(report),
            hint="" if locate else "locate=True names the first sample that differs",
        )
    return report


def compare(
    pipeline: torch.nn.Module,
    model: CompiledModel,
    *inputs: Array,
    board: str | Board | BoardSession | None = None,
    tolerance: float | None = None,
    locate: bool = False,
) -> VerificationReport:
    """As `verify`, but a difference is in the report only: it is not raised.

    Raises:
        VerificationError: The pipeline is not what was compiled.
        SignalError: The signals do not fit the model.
        BoardError: The board cannot be used.
    """
    signature = model.signature
    blocks = split_blocks(signature, inputs)
    if not signature.outputs:
        raise SignalError(f"{model.name} has no output to compare")
    _check_rate(pipeline, model)
    expected, exact, counters = reference_outputs(pipeline, signature, blocks)
    with _device(model, board) as (name, run):
        got = [np.asarray(v) for v in flatten(signature.structure, run(*inputs))]
    outputs = [
        _compare(spec, g, e, x, tolerance)
        for spec, g, e, x in zip(signature.outputs, got, expected, exact, strict=True)
    ]
    found = [
        _first(spec, g, e, o, len(blocks))
        for spec, g, e, o in zip(signature.outputs, got, expected, outputs, strict=True)
        if locate and o.mismatches
    ]
    return VerificationReport(
        model=model.name,
        board=name,
        blocks=len(blocks),
        outputs=tuple(outputs),
        counters=counters,
        divergence=min(found, key=lambda d: (d.block, d.index[-1:]), default=None),
    )


def flatten(structure: OutputStructure, value: Any) -> list[Any]:
    """The inverse of `structure.unflatten`."""
    if structure.kind == "tensor":
        return [value]
    if structure.kind == "dict":
        return [value[name] for name in structure.names]
    return list(value)


@contextmanager
def _device(
    model: CompiledModel, board: str | Board | BoardSession | None
) -> Iterator[tuple[str, Any]]:
    if board is None:
        model.reset()
        yield "host", model.run
        model.reset()
        return
    from microddsp.micro.session import BoardSession, open_board

    opened = nullcontext(board) if isinstance(board, BoardSession) else open_board(board, model)
    with opened as session:
        there = session.models.get(model.name)
        if there is None or there.signature != model.signature:
            raise VerificationError(
                f"the board runs another model than {model.name}", hint="open it with this one"
            )
        yield session.board.name, there.run


def _check_rate(pipeline: torch.nn.Module, model: CompiledModel) -> None:
    """Another pipeline may count the same by chance: its sample rate gives it away."""
    made_for, rate = model.signature.sample_rate_hz, input_rate_hz(pipeline)
    if made_for is not None and rate is not None and rate != made_for:
        raise VerificationError(
            f"the pipeline is made for {rate:g} samples a second, {model.name} for {made_for:g}",
            hint=OTHER_PIPELINE,
        )


def _compare(
    spec: TensorSpec,
    got: np.ndarray,
    expected: np.ndarray,
    exact: np.ndarray,
    tolerance: float | None,
) -> OutputReport:
    if got.shape != expected.shape:
        raise VerificationError(
            f"output {spec.name!r} has shape {got.shape}, PyTorch gives {expected.shape}",
            hint=OTHER_PIPELINE,
        )
    reference = expected.astype(np.float64)
    error = np.abs(got.astype(np.float64) - reference)
    largest = float(np.abs(reference).max(initial=0.0))
    own = _relative(float(np.abs(reference - exact).max(initial=0.0)), largest)
    if np.dtype(spec.dtype).kind == "f":
        allowed = max(LEAST_TOLERANCE, 2.0 * own) if tolerance is None else tolerance
    else:
        allowed = 0.0
    # not >: a NaN is a mismatch too
    mismatches = int(np.count_nonzero(~(error <= allowed * largest)))
    power = float(np.sum(error**2))
    signal = float(np.sum(reference**2))
    worst = float(error.max(initial=0.0))
    return OutputReport(
        name=spec.name,
        dtype=spec.dtype,
        max_abs_error=worst,
        max_rel_error=_relative(worst, largest),
        snr_db=_decibels(signal, power),
        float32_error=own,
        tolerance=allowed,
        mismatches=mismatches,
        passed=mismatches == 0,
    )


def _relative(error: float, largest: float) -> float:
    if error == 0.0:
        return 0.0
    return error / largest if largest else math.inf


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal else -math.inf


def _first(
    spec: TensorSpec, got: np.ndarray, expected: np.ndarray, report: OutputReport, blocks: int
) -> Divergence:
    reference = expected.astype(np.float64)
    error = np.abs(got.astype(np.float64) - reference)
    wrong = np.argwhere(~(error <= report.tolerance * np.abs(reference).max(initial=0.0)))
    axis = 0 if spec.stream_axis is None else spec.stream_axis % got.ndim
    place = tuple(int(i) for i in wrong[np.argmin(wrong[:, axis])])
    sample: int | None = None
    index: Sequence[int] = place
    if spec.stream_axis is not None:
        size = spec.shape[axis]
        block, inside = divmod(place[axis], size)
        index = (*place[:axis], inside, *place[axis + 1 :])
        sample = place[axis] if axis == got.ndim - 1 and size > 1 else None
    elif blocks > 1:
        block, index = place[0], place[1:]
    else:
        block = 0
    return Divergence(
        spec.name, block, tuple(index), sample, float(expected[place]), float(got[place])
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
