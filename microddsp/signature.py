"""What goes in and out of a compiled model: names, shapes, types. Plain data, no heavy imports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from microddsp.errors import ArchiveError, ParameterError

INPUT_DTYPES = {"f32": "float32", "s16": "int16", "s32": "int32", "u16": "uint16"}
ABI_VERSION = 1  # of the C interface
C_TYPES = {
    "float32": "float",
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "uint16": "uint16_t",
    "int32": "int32_t",
    "uint32": "uint32_t",
    "int64": "int64_t",
    "bool": "uint8_t",
}
# Of an input's block: 64 MB, more than any of the devices has.
MAX_BLOCK_ELEMENTS = 2**24
# What kernels may use: signals are never float64, designs of filters are.
KERNEL_TYPES = {**C_TYPES, "float64": "double"}


def check_block(shape: Sequence[int], name: str = "") -> None:
    """Raises ParameterError for a block that no device has memory for."""
    elements = math.prod(shape)
    if elements > MAX_BLOCK_ELEMENTS:
        raise ParameterError(
            f"a block of {elements} elements{f' for {name}' if name else ''} is too large",
            hint=f"{MAX_BLOCK_ELEMENTS} at most; usual are 16 to 1024 samples a channel",
        )


@dataclass(frozen=True, slots=True)
class Input:
    """How samples arrive at the device: what an ADC or I2S DMA delivers.

    The pipeline sees `(raw - offset) * scale` as float32; `scale` defaults to full scale = 1
    for s16 and s32 and to 1 otherwise. `interleaved` means frames of one sample per channel.

    Raises:
        ParameterError: Unknown dtype, or a scale that is zero or not finite.
    """

    dtype: str = "f32"
    scale: float | None = None
    offset: float = 0.0
    unit: str = ""
    interleaved: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in INPUT_DTYPES:
            raise ParameterError(
                f"unknown input dtype {self.dtype!r}", hint=f"one of {', '.join(INPUT_DTYPES)}"
            )
        scale = self.factor
        if not abs(scale) > 0.0 or scale in (float("inf"), float("-inf")):
            raise ParameterError(f"input scale must be finite and not zero, got {scale}")
        if not abs(self.offset) < float("inf"):
            raise ParameterError(f"input offset must be finite, got {self.offset}")

    @property
    def factor(self) -> float:
        """The scale that is really applied."""
        if self.scale is not None:
            return self.scale
        return {"s16": 2.0**-15, "s32": 2.0**-31}.get(self.dtype, 1.0)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of one block. `stream_axis` is where the outputs of successive blocks are joined
    (-1 for signals and counts, 0 for frames, None: stacked on a new first axis)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    stream_axis: int | None = None

    @property
    def elements(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def nbytes(self) -> int:
        width = {"8": 1, "16": 2, "32": 4, "64": 8, "bool": 1}
        bits = self.dtype if self.dtype == "bool" else self.dtype.lstrip("uintfloa")
        return self.elements * width[bits]


@dataclass(frozen=True, slots=True)
class InputSpec(TensorSpec):
    """An input as the C function takes it: shape and dtype are the raw ones.

    `channels` and `block` describe the signal; an interleaved input has shape (block, channels).
    """

    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""
    interleaved: bool = False


@dataclass(frozen=True, slots=True)
class OutputStructure:
    """Rebuilds what the user's forward returns from a flat list of tensors.

    kind: "tensor", "tuple", "dict" or "namedtuple"; names: one per tensor.
    """

    kind: str = "tensor"
    names: tuple[str, ...] = ("out",)
    type_name: str = ""

    def unflatten(self, values: Sequence[Any]) -> Any:
        if len(values) != len(self.names):
            raise ParameterError(f"{len(self.names)} outputs expected, got {len(values)}")
        if self.kind == "tensor":
            return values[0]
        if self.kind == "dict":
            return dict(zip(self.names, values, strict=True))
        if self.kind == "namedtuple":
            from collections import namedtuple

            return namedtuple(self.type_name or "Outputs", self.names)(*values)
        return tuple(values)


@dataclass(frozen=True, slots=True)
class Tunable:
    """A number that `set_<name>` changes: one, shape (), or several. `path` is where the pipeline
    has it, `value` what it was when compiled."""

    name: str
    path: str
    shape: tuple[int, ...]
    value: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """Everything a caller of the compiled C must know. `io_in_arena`: inputs and outputs lie inside
    the workspace, and functions of the model say where. `push`: it takes any number of samples."""

    name: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[TensorSpec, ...]
    structure: OutputStructure
    block: int
    state_bytes: int
    workspace_bytes: int
    workspace_align: int = 8
    sample_rate_hz: float | None = None
    settle_samples: int = 0
    abi_version: int = ABI_VERSION
    io_in_arena: bool = False
    push: bool = False
    tunables: tuple[Tunable, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Signature:
        """The inverse of `to_json`.

        Raises:
            ArchiveError: A field is missing, unknown or of the wrong kind.
        """
        try:
            return Signature(
                **{
                    **data,
                    "inputs": tuple(
                        InputSpec(**{**i, "shape": tuple(map(int, i["shape"]))})
                        for i in data["inputs"]
                    ),
                    "outputs": tuple(
                        TensorSpec(**{**o, "shape": tuple(map(int, o["shape"]))})
                        for o in data["outputs"]
                    ),
                    "tunables": tuple(
                        Tunable(t["name"], t["path"], tuple(t["shape"]), tuple(t["value"]))
                        for t in data.get("tunables", ())
                    ),
                    "structure": OutputStructure(
                        **{**data["structure"], "names": tuple(data["structure"]["names"])}
                    ),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArchiveError(f"the model's signature cannot be read: {error}") from error
