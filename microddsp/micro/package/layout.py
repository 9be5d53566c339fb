"""What stands in an archive beside the C: metadata.json and the README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from microddsp.micro.package.metadata import (
    Functions,
    Main,
    Memory,
    Module,
    OperatorFunction,
    Ours,
    Tensor,
    Traffic,
    Workspace,
)
from microddsp.signature import TensorSpec

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel


def module_of(model: CompiledModel, hashes: Mapping[str, str]) -> Module:
    """A model's entry in metadata.json, as microTVM wrote it; what is only ours lies under
    "microddsp". There is no export date: equal models give equal bytes.
    """
    from microddsp import __version__

    signature = model.signature
    inputs, outputs = _tensors(signature.inputs), _tensors(signature.outputs)
    main = Main(
        workspace_size_bytes=signature.workspace_bytes,
        constants_size_bytes=model.constant_bytes,
        io_size_bytes=sum(entry.size for entry in (*inputs.values(), *outputs.values())),
        inputs=inputs,
        outputs=outputs,
    )
    kernels = [
        OperatorFunction(
            function_name=name,
            workspace=(Workspace(workspace_size_bytes=scratch),),
            io=(Traffic(io_size_bytes=traffic),),
        )
        for name, scratch, traffic in model.kernels
    ]
    return Module(
        model_name=model.name,
        target=[_target_of(model)],
        memory=Memory(functions=Functions(main=(main,), operator_functions=kernels)),
        microddsp=Ours(
            version=__version__,
            target=model.target.name,
            digest=model.digest,
            state_size_bytes=signature.state_bytes,
            buffers=list(model.buffers),
            sha256=dict(hashes),
            outline=model.outline.to_json() if model.outline else None,
        ),
    )


def _target_of(model: CompiledModel) -> str:
    if model.objects:
        return f"llvm -keys=cpu -mtriple={model.target.triple} -mcpu={model.target.cpu}"
    return f"c -keys=cpu -mcpu={model.target.cpu}"


def _tensors(specs: Iterable[TensorSpec]) -> dict[str, Tensor]:
    return {spec.name: Tensor(size=spec.nbytes, dtype=spec.dtype) for spec in specs}


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
{kernels}  executor-config/aot/{name}.json    names, shapes and types of inputs and outputs
  src/{name}.relax, src/{name}.tir      the graph, and the kernels before they became C, to read
  parameters/{name}.params              the constants of the C once more, as TVM saves them
  metadata.json                         Model Library Format, version 7

  static {name}_t {name};
  {name}_init(&{name}, {workspace});     /* once */
  {name}_process({", ".join([f"&{name}", *arguments])});     /* every {upper}_BLOCK_LEN samples */
  {name}_reset(&{name});     /* forget the signal */

No run-time library, no heap, no global data; the C file holds all constants. Build with
-ffp-contract=off to get the results that were verified.
"""
