"""Who makes the machine code of each kernel: the user's compiler, LLVM, or GCC with other flags.

C is built by the user with flags of his own: what other flags give, and what LLVM gives, can only
be delivered as object code.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from microddsp.errors import ParameterError, nearest
from microddsp.micro.aot.helpers import helpers, own_names
from microddsp.micro.aot.kernel import Kernel
from microddsp.micro.package.objects import compile_c
from microddsp.micro.targets import Target
from microddsp.relax_ops.choices import Session, answering, choose

_GCC = "gcc "
_FLAGS = ("-O2", "-Os", "-O1", "-O3 -funroll-loops", "-O3 -fno-schedule-insns")
_OBJECT_CODES = ("llvm", *(_GCC + flags for flags in _FLAGS))
# What may be chosen, by what the user wants to be given; the first is usual.
CODES = {"c": ("c",), "obj": _OBJECT_CODES, "any": ("c", *_OBJECT_CODES)}
_HEADERS = "#include <math.h>\n#include <stdbool.h>\n#include <stdint.h>\n#include <string.h>\n"


def check_emit(emit: str) -> None:
    """
    Raises:
        ParameterError: There is no such thing to emit.
    """
    if emit not in CODES:
        raise ParameterError(f"cannot emit {emit!r}", hint=nearest(emit, CODES))


def chosen_code(emit: str) -> str:
    """The code of the kernel that is being made."""
    values = CODES[emit]
    return str(choose("code", values, values[0])) if len(values) > 1 else values[0]


def codes_of(kernels: Sequence[Kernel], emit: str, session: Session | None) -> dict[str, str]:
    """The code of each kernel, by its name."""
    if session is None:
        return {kernel.name: CODES[emit][0] for kernel in kernels}
    codes = {}
    for kernel in kernels:
        with answering(session.of(kernel.key)):
            codes[kernel.name] = chosen_code(emit)
    return codes


def fits(emit: str, choices: Mapping[str, object]) -> bool:
    """Whether a kernel with these choices can be delivered so."""
    return choices.get("code", "c") in CODES[emit]


def flags_of(code: str) -> tuple[str, ...]:
    """The compiler flags that a code stands for."""
    return tuple(code.removeprefix(_GCC).split()) if code.startswith(_GCC) else ()


def object_of(
    kernels: Sequence[Kernel], codes: Mapping[str, str], target: Target, name: str
) -> bytes | None:
    """One object with all kernels that are not C; None if there are none.

    Raises:
        CompileError: LLVM does not take a kernel.
        BoardError: The target's compiler is not installed, or refuses a kernel.
    """
    from microddsp.micro.aot.llvm import build_object

    groups: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        if codes[kernel.name] != "c":
            groups.setdefault(codes[kernel.name], []).append(kernel)
    if not groups:
        return None
    if list(groups) == ["llvm"]:
        return build_object(groups["llvm"], target)
    with tempfile.TemporaryDirectory(prefix="microddsp-") as folder:
        parts = []
        for i, (code, own) in enumerate(sorted(groups.items())):
            parts.append(Path(folder) / f"{name}_{i}.o")
            if code == "llvm":
                parts[-1].write_bytes(build_object(own, target))
                continue
            source = parts[-1].with_suffix(".c")
            source.write_text(_source(own, name))
            compile_c(target, [source], parts[-1], ["-c", "-w", *flags_of(code)])
        joined = Path(folder) / f"{name}_kernels.o"
        return compile_c(target, parts, joined, ["-r", "-nostdlib"]).read_bytes()


def _source(kernels: Sequence[Kernel], name: str) -> str:
    """C of functions that other files can call."""
    macros = "".join(f"#define {m} restrict\n" for m in sorted({k.restrict for k in kernels}))
    texts = [k.text for k in kernels]
    open_ = [own_names(text.removeprefix("static "), name) for text in texts]
    return "\n".join([_HEADERS, macros, *helpers(texts, name), *open_])
