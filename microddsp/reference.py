"""What PyTorch gives for the blocks of a stream, in float32 and in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from microddsp.dsp import EventCounter
from microddsp.dsp.streaming import streaming
from microddsp.errors import VerificationError
from microddsp.frontend.structure import Tapped, structure_of
from microddsp.signature import InputSpec, Signature, TensorSpec


@dataclass(frozen=True, slots=True)
class CounterMargin:
    """How near the input of an event counter came to a threshold, against float32's error there.

    Where a sample is nearer than the error, another rounding may give another count.
    """

    counter: str
    margin: float
    float32_error: float

    @property
    def is_safe(self) -> bool:
        return self.margin > self.float32_error

    def __str__(self) -> str:
        verdict = "counts are safe" if self.is_safe else "counts may depend on rounding"
        return (
            f"counter {self.counter or 'itself'}: nearest sample is {self.margin:.3g} from a "
            f"threshold, float32 error {self.float32_error:.3g}: {verdict}"
        )


def reference_outputs(
    pipeline: torch.nn.Module, signature: Signature, blocks: Sequence[Sequence[np.ndarray]]
) -> tuple[list[np.ndarray], list[np.ndarray], tuple[CounterMargin, ...]]:
    """Outputs in the order of the signature, float32 and float64, and the counters' margins.

    Raises:
        VerificationError: The pipeline is not the one that was compiled.
    """
    single, inputs32 = _stream(pipeline, signature, blocks, torch.float32)
    double, inputs64 = _stream(pipeline, signature, blocks, torch.float64)
    margins = tuple(
        _margin(pipeline, path, inputs32[path], inputs64[path]) for path in sorted(inputs64)
    )
    return single, double, margins


def _stream(
    pipeline: torch.nn.Module,
    signature: Signature,
    blocks: Sequence[Sequence[np.ndarray]],
    dtype: torch.dtype,
) -> tuple[list[np.ndarray], dict[str, torch.Tensor]]:
    # A copy: the pipeline's own buffers, mode and type stay as they are.
    module = copy.deepcopy(pipeline).eval().to(device="cpu", dtype=dtype)
    signals = [
        [
            _as_pipeline_sees(spec, array, dtype)
            for spec, array in zip(signature.inputs, block, strict=True)
        ]
        for block in blocks
    ]
    traced = _with_taps(module, signature, signals[0])
    answers: list[list[np.ndarray]] = []
    with torch.no_grad(), streaming(module), _counter_inputs(module) as seen:
        for block in signals:
            values = _flat(traced(*block))
            answers.append([value.detach().numpy() for value in values])
    if len(answers[0]) != len(signature.outputs):
        raise VerificationError(
            f"the pipeline gives {len(answers[0])} outputs, the model "
            f"{len(signature.outputs)}: it is not what was compiled"
        )
    joined = [_join(spec, [a[i] for a in answers]) for i, spec in enumerate(signature.outputs)]
    return joined, {path: torch.cat(parts, -1) for path, parts in seen.items()}


def _flat(result: Any) -> list[torch.Tensor]:
    structure_of(result)  # refuses what is no tensor
    if isinstance(result, dict):
        return list(result.values())
    return [result] if isinstance(result, torch.Tensor) else list(result)


def _join(spec: TensorSpec, parts: list[np.ndarray]) -> np.ndarray:
    """As `join_blocks` joins what the device gives."""
    if spec.stream_axis is not None:
        return np.concatenate(parts, axis=spec.stream_axis)
    return parts[0] if len(parts) == 1 else np.stack(parts)


def _as_pipeline_sees(spec: InputSpec, array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Raw samples as the model's first loop converts them."""
    values = torch.from_numpy(array.T.copy() if spec.interleaved else array)
    if spec.dtype.startswith("float"):
        return values.to(dtype)
    return (values.to(dtype) - spec.offset) * spec.scale


def _with_taps(
    module: torch.nn.Module, signature: Signature, block: Sequence[torch.Tensor]
) -> torch.nn.Module:
    """The module, returning those inner signals too that the compiled model returns."""
    probe = copy.deepcopy(module)
    with torch.no_grad(), streaming(probe):
        own = len(_flat(probe(*block)))
    extra = [spec.name for spec in signature.outputs[own:]]
    if not extra:
        return module
    paths: dict[str, str] = {}
    for path, _ in module.named_modules():
        plain = path.replace(".", "_")
        paths.setdefault(plain, path)
        paths.setdefault(f"tap_{plain}", path)
    unknown = [name for name in extra if not paths.get(name)]
    if unknown:
        raise VerificationError(
            f"the pipeline has no module for output {unknown[0]!r}: it is not what was compiled"
        )
    return Tapped(module, [paths[name] for name in extra])


def _margin(
    pipeline: torch.nn.Module, path: str, single: torch.Tensor, double: torch.Tensor
) -> CounterMargin:
    counter = pipeline.get_submodule(path)
    assert isinstance(counter, EventCounter)
    distances = [
        (double - torch.atleast_1d(level.detach().cpu()).unsqueeze(-1)).abs().min()
        for level in (counter.threshold, counter.release_threshold)
    ]
    error = (single.double() - double).abs().max()
    return CounterMargin(path, float(min(distances)), float(error))


@contextmanager
def _counter_inputs(module: torch.nn.Module) -> Iterator[dict[str, list[torch.Tensor]]]:
    seen: dict[str, list[torch.Tensor]] = {}

    def keep(path: str) -> Any:
        return lambda _module, inputs: seen.setdefault(path, []).append(inputs[0].detach().clone())

    hooks = [
        inner.register_forward_pre_hook(keep(path))
        for path, inner in module.named_modules()
        if isinstance(inner, EventCounter)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
