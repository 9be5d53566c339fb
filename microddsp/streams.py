"""Long signals cut into blocks for a compiled model, and its outputs joined again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from microddsp.errors import ParameterError, SignalError, nearest
from microddsp.signature import InputSpec, Signature

if TYPE_CHECKING:
    import torch

    Array = np.ndarray | torch.Tensor

TAILS = ("error", "drop")


def split_blocks(
    signature: Signature, inputs: Sequence[Array], tail: str = "error"
) -> list[list[np.ndarray]]:
    """Cut signals (channels, samples) into arrays of exactly the shapes that C takes.

    Raises:
        SignalError: Number of inputs, channels or type do not fit, a value is not finite,
            nothing is there, lengths differ, or the last block is short and `tail` is "error".
    """
    if tail not in TAILS:
        raise SignalError(f"unknown tail {tail!r}", hint=f"one of {', '.join(TAILS)}")
    if len(inputs) != len(signature.inputs):
        raise SignalError(
            f"{signature.name} takes {len(signature.inputs)} inputs, got {len(inputs)}"
        )
    cut = [_cut(spec, value, tail) for spec, value in zip(signature.inputs, inputs, strict=True)]
    counts = {len(blocks) for blocks in cut}
    if len(counts) != 1:
        raise SignalError(
            f"inputs have different numbers of blocks: {sorted(counts)}", where=signature.name
        )
    return [list(block) for block in zip(*cut, strict=True)]


def _cut(spec: InputSpec, value: Array, tail: str) -> list[np.ndarray]:
    array = _to_numpy(value)
    _check_type(spec, array)
    array = array.astype(spec.dtype, copy=False)
    if len(spec.shape) != 2:
        if array.shape != spec.shape:
            raise SignalError(f"input {spec.name!r} has shape {spec.shape}, got {array.shape}")
        return [np.ascontiguousarray(array)]
    channels, block = spec.shape[::-1] if spec.interleaved else spec.shape
    if array.ndim == 1 and channels == 1:
        array = array[None]
    if array.ndim != 2 or array.shape[0] != channels:
        hint = ""
        if array.ndim == 2 and array.shape[1] == channels:
            hint = "signals are (channels, samples): transpose it"
        raise SignalError(
            f"input {spec.name!r} takes {channels} channels of samples, got shape {array.shape}",
            hint=hint,
        )
    samples = array.shape[1]
    if samples == 0:
        raise SignalError(f"input {spec.name!r} is empty")
    count, left = divmod(samples, block)
    if left and tail == "error":
        raise SignalError(
            f"input {spec.name!r} has {samples} samples, no multiple of the block of {block}",
            hint=f'give {count * block} or {(count + 1) * block} samples, or tail="drop"'
            if count
            else f"give at least {block}",
        )
    if not count:
        raise SignalError(
            f"input {spec.name!r} has {samples} samples, less than one block of {block}"
        )
    parts = (array[:, i * block : (i + 1) * block] for i in range(count))
    return [np.ascontiguousarray(p.T if spec.interleaved else p) for p in parts]


def _check_type(spec: InputSpec, array: np.ndarray) -> None:
    wanted = np.dtype(spec.dtype)
    if wanted.kind == "f":
        if array.dtype.kind not in "fiu":
            raise SignalError(f"input {spec.name!r} takes numbers, got {array.dtype}")
        if not np.isfinite(array).all():
            raise SignalError(f"input {spec.name!r} has NaN or infinite samples")
        return
    if array.dtype.kind not in "iub":
        raise SignalError(
            f"input {spec.name!r} takes raw {spec.dtype} samples, got {array.dtype}",
            hint="give what the ADC delivers; the model applies scale and offset itself",
        )
    if wanted.kind in "iu" and array.size:
        limits = np.iinfo(wanted)
        if array.min() < limits.min or array.max() > limits.max:
            raise SignalError(f"input {spec.name!r} has samples outside {spec.dtype}")


def join_blocks(
    signature: Signature, outputs: Sequence[Sequence[np.ndarray]], *, like: Sequence[Any] = ()
) -> Any:
    """Outputs of successive blocks as one answer in the user's own structure.

    Signals and counts are joined along time, frames along their axis; outputs of a model without
    time are stacked if there are several blocks. Tensors come back if `like` holds tensors.
    """
    joined = []
    for i, spec in enumerate(signature.outputs):
        parts = [block[i] for block in outputs]
        if spec.stream_axis is not None:
            joined.append(np.concatenate(parts, axis=spec.stream_axis))
        else:
            joined.append(parts[0] if len(parts) == 1 else np.stack(parts))
    if any(_is_tensor(value) for value in like):
        import torch

        return signature.structure.unflatten([torch.from_numpy(value) for value in joined])
    return signature.structure.unflatten(joined)


def refused_setting(name: str, values: np.ndarray, where: str) -> ParameterError:
    """What is said where a setter returns PLOPS_ERR_RANGE."""
    text = ", ".join(f"{value:.7g}" for value in values.ravel())
    return ParameterError(
        f"{name} cannot be {text}",
        where=where,
        hint="not finite or out of its range; nothing was changed",
    )


def setting(signature: Signature, name: str, value: Any) -> np.ndarray:
    """A new value of a tunable number, float32, as its setter takes it.

    Raises:
        ParameterError: There is no such number, or the value has another shape.
    """
    known = {tunable.name: tunable for tunable in signature.tunables}
    if name not in known:
        raise ParameterError(
            f"{signature.name} has no tunable number {name!r}",
            hint=nearest(name, known) if known else "compile it with --tunable PATH",
        )
    values = _to_numpy(value)
    if values.dtype.kind not in "fiu" or values.shape != known[name].shape:
        raise ParameterError(
            f"{name} is float32 of shape {known[name].shape}, got {values.dtype} of {values.shape}",
            where=signature.name,
        )
    return np.ascontiguousarray(values, dtype="float32")


def _is_tensor(value: Any) -> bool:
    # torch is not imported for a question that only a loaded torch can answer with yes
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _to_numpy(value: Any) -> np.ndarray:
    if _is_tensor(value):
        return np.asarray(value.detach().cpu().numpy())
    return np.asarray(value)
