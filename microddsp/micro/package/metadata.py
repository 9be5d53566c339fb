"""What metadata.json of an archive says: its schema, checked when written and when read."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT_VERSION: Final = 7
CPU: Final = 1  # DLPack's number of the device
Bytes = Annotated[int, Field(ge=0, le=2**40)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Tensor(_Strict):
    """An input or output."""

    size: Bytes
    dtype: str


class Main(_Strict):
    """Memory of one call of `process`."""

    device: Literal[1] = CPU
    workspace_size_bytes: Bytes
    constants_size_bytes: Bytes
    io_size_bytes: Bytes
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


class Workspace(_Strict):
    """Scratch of a kernel, part of the workspace of `process`."""

    device: Literal[1] = CPU
    workspace_size_bytes: Bytes


class Traffic(_Strict):
    """What a kernel takes and gives."""

    device: Literal[1] = CPU
    io_size_bytes: Bytes


class OperatorFunction(_Strict):
    """A kernel."""

    function_name: Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,199}$")]
    workspace: tuple[Workspace]
    io: tuple[Traffic]


class Functions(_Strict):
    """Memory by function."""

    main: tuple[Main]
    operator_functions: list[OperatorFunction]


class Memory(_Strict):
    """The key `memory`."""

    functions: Functions


class Ours(_Strict):
    """What the format has no place for. `buffers`: name, bytes, offset, first and last step;
    `sha256` of every file of the module; `outline` is
    checked by its own class."""

    version: str
    target: str
    digest: str
    state_size_bytes: Bytes
    buffers: list[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,200}$")], int, int, int, int]
    ]
    sha256: dict[str, str]
    outline: dict[str, Any] | None = None


class Module(_Strict):
    """One model."""

    model_name: str
    style: Literal["full-model"] = "full-model"
    target: list[str]
    executors: tuple[Literal["aot"]] = ("aot",)
    external_dependencies: Annotated[list[str], Field(max_length=0)] = []
    memory: Memory
    microddsp: Ours


class Metadata(_Strict):
    """All of metadata.json."""

    version: Literal[7] = FORMAT_VERSION
    modules: Annotated[dict[str, Module], Field(min_length=1)]
