"""The generated C, built for this computer and called through ctypes."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from microddsp.errors import SignalError
from microddsp.micro.package.objects import compile_c
from microddsp.micro.targets import TARGETS
from microddsp.signature import Signature
from microddsp.streams import refused_setting

_SHIM = """#include <string.h>
#include "{name}.h"
size_t shim_size(void);
int shim_init(void *self, void *workspace, size_t nbytes);
void shim_reset(void *self);
int shim_process(void *self, const void *const *in, void *const *out);
size_t shim_size(void) {{ return sizeof({name}_t); }}
int shim_init(void *self, void *workspace, size_t nbytes)
{{
    return (int){name}_init(({name}_t *)self, workspace, nbytes);
}}
void shim_reset(void *self) {{ {name}_reset(({name}_t *)self); }}
int shim_process(void *self, const void *const *in, void *const *out)
{{
{body}
}}
"""
_SET = """int shim_set_{setter}(void *self, const float *value);
int shim_set_{setter}(void *self, const float *value)
{{
    return (int){name}_set_{setter}(({name}_t *)self, {value});
}}
"""


class HostLibrary:
    """One instance of the model on this computer."""

    def __init__(
        self,
        signature: Signature,
        sources: Mapping[str, str],
        objects: Mapping[str, bytes] | None = None,
    ) -> None:
        self.signature = signature
        with tempfile.TemporaryDirectory(prefix="microddsp-") as folder:
            where = Path(folder)
            for file_name, text in sources.items():
                (where / file_name).write_text(text)
            (where / "shim.c").write_text(_shim(signature) + _setters(signature))
            for file_name, content in (objects or {}).items():
                (where / file_name).write_bytes(content)
            in_c = [] if objects else [f"-D{signature.name.upper()}_KERNELS_IN_C"]
            library = compile_c(
                TARGETS["host"],
                [where / name for name in (f"{signature.name}.c", "shim.c", *(objects or {}))],
                where / "model.so",
                ["-shared", *in_c],
                ["-lm"],
            )
            self._library = ctypes.CDLL(str(library))
        self._library.shim_size.restype = ctypes.c_size_t
        self._self = np.zeros(self._library.shim_size() + 64, "uint8")
        self._workspace = np.zeros(signature.workspace_bytes + 64, "uint8")
        self._check(
            self._library.shim_init(
                _aligned(self._self),
                _aligned(self._workspace),
                ctypes.c_size_t(signature.workspace_bytes),
            )
        )

    def reset(self) -> None:
        self._library.shim_reset(_aligned(self._self))

    def set(self, name: str, values: np.ndarray) -> None:
        """Call the setter `name` with float32 values.

        Raises:
            ParameterError: It refuses them.
        """
        setter = getattr(self._library, f"shim_set_{name}")
        status = setter(_aligned(self._self), ctypes.c_void_p(values.ctypes.data))
        if status == -6:
            raise refused_setting(name, values, self.signature.name)
        self._check(status)

    def process(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One block: arrays of the signature's shapes and types in, fresh arrays out.

        Raises:
            SignalError: A state became NaN or infinite; it was reset.
        """
        outputs = [
            np.zeros(o.shape, "uint8" if o.dtype == "bool" else o.dtype)
            for o in self.signature.outputs
        ]
        self._check(
            self._library.shim_process(_aligned(self._self), _pointers(inputs), _pointers(outputs))
        )
        return [
            out.astype(bool) if spec.dtype == "bool" else out
            for out, spec in zip(outputs, self.signature.outputs, strict=True)
        ]

    def _check(self, status: int) -> None:
        if status == -5:
            raise SignalError(
                "a state became NaN or infinite and was reset", where=self.signature.name
            )
        assert status == 0, status


def _aligned(memory: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p((memory.ctypes.data + 63) // 64 * 64)


def _pointers(arrays: Sequence[np.ndarray]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * max(len(arrays), 1))(*(a.ctypes.data for a in arrays))


def _shim(signature: Signature) -> str:
    """Gives ctypes one calling convention, whatever the number and types of tensors."""
    from microddsp.signature import C_TYPES

    name = signature.name
    if signature.io_in_arena:
        return _SHIM.format(name=name, body=_through_accessors(signature))
    arguments = [f"({name}_t *)self"]
    arguments += [f"(const {C_TYPES[t.dtype]} *)in[{i}]" for i, t in enumerate(signature.inputs)]
    lines = []
    if len(signature.outputs) == 1:
        arguments.append(f"({C_TYPES[signature.outputs[0].dtype]} *)out[0]")
    else:
        lines.append(f"    {name}_outputs_t outputs;")
        for i, t in enumerate(signature.outputs):
            lines.append(f"    outputs.{t.name} = ({C_TYPES[t.dtype]} *)out[{i}];")
        arguments.append("&outputs")
    lines.append(f"    return (int){name}_process({', '.join(arguments)});")
    return _SHIM.format(name=name, body="\n".join(lines))


def _setters(signature: Signature) -> str:
    return "".join(
        _SET.format(name=signature.name, setter=t.name, value="value" if t.shape else "*value")
        for t in signature.tunables
    )


def _through_accessors(signature: Signature) -> str:
    name = signature.name
    lines = [
        f"    memcpy({name}_input_{t.name}(({name}_t *)self), in[{i}], {t.nbytes}u);"
        for i, t in enumerate(signature.inputs)
    ]
    lines.append(f"    const int status = (int){name}_process(({name}_t *)self);")
    lines += [
        f"    memcpy(out[{i}], {name}_output_{t.name}(({name}_t *)self), {t.nbytes}u);"
        for i, t in enumerate(signature.outputs)
    ]
    return "\n".join([*lines, "    return status;"])
