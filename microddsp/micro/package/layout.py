"""What stands in an archive beside the C: metadata.json and the README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from microddsp.signature import TensorSpec

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel


def metadata_of(model: CompiledModel, version: int, hashes: Mapping[str, str]) -> dict[str, Any]:
    """metadata.json as microTVM wrote it; what is only ours lies under "microddsp".

    There is no export date and no `parameters/`: constants are `static const` tables in the C.
    """
    from microddsp import __version__

    signature = model.signature
    inputs = _tensors(signature.inputs)
    outputs = _tensors(signature.outputs)
    main = {
        "device": 1,
        "workspace_size_bytes": signature.workspace_bytes,
        "constants_size_bytes": 0,
        "io_size_bytes": sum(entry["size"] for entry in (*inputs.values(), *outputs.values())),
        "inputs": inputs,
        "outputs": outputs,
    }
    return {
        "version": version,
        "modules": {
            model.name: {
                "model_name": model.name,
                "style": "full-model",
                "target": [_target_of(model)],
                "executors": ["aot"],
                "external_dependencies": [],
                "memory": {"functions": {"main": [main], "operator_functions": []}},
                "microddsp": {
                    "version": __version__,
                    "target": model.target.name,
                    "digest": model.digest,
                    "state_size_bytes": signature.state_bytes,
                    "buffers": [list(buffer) for buffer in model.buffers],
                    "sha256": dict(hashes),
                }
                | ({"outline": model.outline.to_json()} if model.outline else {}),
            }
        },
    }


def _target_of(model: CompiledModel) -> str:
    if model.objects:
        return f"llvm -keys=cpu -mtriple={model.target.triple} -mcpu={model.target.cpu}"
    return f"c -keys=cpu -mcpu={model.target.cpu}"


def _tensors(specs: Iterable[TensorSpec]) -> dict[str, dict[str, Any]]:
    return {spec.name: {"size": spec.nbytes, "dtype": spec.dtype} for spec in specs}


def readme_of(model: CompiledModel) -> str:
    """How to use the archive without this package."""
    name, upper = model.name, model.name.upper()
    workspace = "NULL, 0" if not model.signature.workspace_bytes else "workspace, sizeof workspace"
    arguments = [spec.name for spec in model.signature.inputs]
    outputs = [spec.name for spec in model.signature.outputs]
    arguments += outputs if len(outputs) == 1 else ["&outputs"]
    if model.signature.io_in_arena:
        arguments = []  # they lie in the workspace: the header's functions say where
    kernels = (
        f"  codegen/host/lib/{name}_kernels.o         link it; or build the C with"
        f" -D{upper}_KERNELS_IN_C\n"
        if model.objects
        else ""
    )
    return f"""{name}: a signal pipeline as two C99 files (model digest {model.digest})

  codegen/host/include/{name}.h         the interface; sizes and sample rate are macros
  codegen/host/src/{name}.c             the model, constants included: add it to your firmware
{kernels}  executor-config/aot/signature.json    names, shapes and types of inputs and outputs
  src/tir-cpu.txt                       the kernels before they became C, to read
  metadata.json                         Model Library Format, version 7

  static {name}_t {name};
  {name}_init(&{name}, {workspace});     /* once */
  {name}_process({", ".join([f"&{name}", *arguments])});     /* every {upper}_BLOCK_LEN samples */
  {name}_reset(&{name});     /* forget the signal */

No run-time library, no heap, no global data. There is no parameters/ folder: parameters are
constants in the C file. Build with -ffp-contract=off to get the results that were verified.
"""
