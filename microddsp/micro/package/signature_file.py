"""A model's signature as an archive has it: every name, size and shape is looked at."""

from __future__ import annotations

import math

from microddsp.errors import ArchiveError
from microddsp.micro.aot.memory_options import ALIGNMENTS
from microddsp.micro.package.names import is_c_name
from microddsp.micro.package.plain_tar import either, json_of, object_of
from microddsp.signature import ABI_VERSION, C_TYPES, Signature, TensorSpec

MAX_ELEMENTS = 2**28
_STRUCTURES = ("tensor", "tuple", "dict", "namedtuple")


def read_signature(members: dict[str, bytes], name: str) -> Signature:
    from pydantic import TypeAdapter, ValidationError

    folder = "executor-config/aot"
    path = either(members, f"{folder}/{name}.json", f"{folder}/signature.json")
    data = object_of(json_of(members, path), path)
    try:
        TypeAdapter(Signature).validate_json(members[path], strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ArchiveError(f"signature: {place}: {first['msg']}") from error
    signature = Signature.from_json(data)
    if signature.name != name:
        raise ArchiveError(f"signature is of {signature.name!r}, the model is {name!r}")
    structure = signature.structure
    if structure.kind not in _STRUCTURES or structure.names != tuple(
        spec.name for spec in signature.outputs
    ):
        raise ArchiveError("signature: the output structure does not fit the outputs")
    if structure.type_name:
        _identifier(structure.type_name, "output type")
    for spec in (*signature.inputs, *signature.outputs):
        _check_tensor(spec)
    _check_tunables(signature)
    names = [spec.name for spec in (*signature.inputs, *signature.outputs)]
    if signature.abi_version != ABI_VERSION:
        raise ArchiveError(
            f"its C interface has version {signature.abi_version}, not {ABI_VERSION}",
            hint="compile the model again with this microddsp",
        )
    _check_numbers(signature)
    sizes = [signature.block - 1, signature.state_bytes, signature.workspace_bytes]
    sizes.append(signature.settle_samples)
    if not signature.inputs or not signature.outputs or len(set(names)) != len(names):
        raise ArchiveError("signature: inputs and outputs must be there, each name once")
    align = signature.workspace_align
    if not all(0 <= size <= MAX_ELEMENTS for size in sizes) or align not in ALIGNMENTS:
        raise ArchiveError("signature: a size makes no sense")
    return signature


def _check_numbers(signature: Signature) -> None:
    """JSON's NaN and Infinity pass for numbers."""
    rate = signature.sample_rate_hz
    values = [value for tunable in signature.tunables for value in tunable.value]
    values += [number for spec in signature.inputs for number in (spec.scale, spec.offset)]
    if not all(map(math.isfinite, values)) or not (rate is None or 0.0 < rate < math.inf):
        raise ArchiveError("signature: a number is not finite, or the sample rate not positive")


def _check_tunables(signature: Signature) -> None:
    names = [tunable.name for tunable in signature.tunables]
    for tunable in signature.tunables:
        _identifier(tunable.name, "tunable")
        sane = all(size > 0 for size in tunable.shape) and tunable.path.isprintable()
        if not sane or math.prod(tunable.shape) != len(tunable.value):
            raise ArchiveError(f"signature: tunable {tunable.name} makes no sense")
    if len(set(names)) != len(names):
        raise ArchiveError("signature: a tunable is there twice")


def _check_tensor(spec: TensorSpec) -> None:
    _identifier(spec.name, "tensor")
    sane = all(size > 0 for size in spec.shape) and spec.elements <= MAX_ELEMENTS
    axis = spec.stream_axis
    if spec.dtype not in C_TYPES or not sane or (axis is not None and not -4 <= axis < 4):
        raise ArchiveError(f"signature: {spec.name} has shape {spec.shape} of {spec.dtype}")


def _identifier(name: str, what: str) -> None:
    if not is_c_name(name):
        raise ArchiveError(f"{what} name {name!r} is no C identifier, or a keyword")
