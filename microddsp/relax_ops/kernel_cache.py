"""Compiled training kernels on disk: built once per computer, then only loaded."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from microddsp.errors import MicroddspError
from microddsp.relax_ops.adjoint import differentiate
from microddsp.relax_ops.expression import Step, in_order
from microddsp.relax_ops.sample_operator import SampleOperator

# What a kernel depends on besides the step itself.
_SOURCES = (
    "expression.py",
    "adjoint.py",
    "host_kernel.py",
    "event_counter.py",
    "moving_max.py",
    "kernel_cache.py",
)
_DIGEST = hashlib.sha256().digest_size


def cache_folder() -> Path:
    """The user's kernel folder, mode 0700; MICRODDSP_CACHE_DIR overrides where it lies.

    Raises:
        MicroddspError: The folder cannot be made, belongs to somebody else or is open to others.
    """
    folder = _place()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise MicroddspError(
            f"the kernel cache {folder} cannot be made: {error.strerror}",
            hint="set MICRODDSP_CACHE_DIR to a folder of your own",
        ) from error
    info = folder.stat()
    if info.st_uid != os.getuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise MicroddspError(
            f"the kernel cache {folder} is not yours alone; code is loaded from it",
            hint="remove it, or set MICRODDSP_CACHE_DIR to a folder of your own",
        )
    return folder


def _place() -> Path:
    given = os.environ.get("MICRODDSP_CACHE_DIR")
    if given:
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "microddsp"
    except RuntimeError as error:  # a user of a container, that its system does not know
        raise MicroddspError(
            "there is no home folder for the kernel cache",
            hint="set MICRODDSP_CACHE_DIR to a folder of your own",
        ) from error


def load(key: str, build: Callable[[], Any]) -> Any:
    """The module of functions for `key`; `build` makes the IRModule if it is not there yet.

    A damaged file is built again.
    """
    import tvm_ffi

    _load_runtime()
    folder = cache_folder()
    path = folder / f"{key}.so"
    if not _intact(path):
        with _locked(folder):
            # somebody else may have built it while this process waited for the lock
            if not _intact(path):
                if path.exists():
                    warnings.warn(f"kernel {path.name} is damaged and is rebuilt", stacklevel=2)
                _compile(build(), path)
    return tvm_ffi.load_module(str(path))


def _intact(path: Path) -> bool:
    """Whether the file ends with the digest of the rest: the system's loader may crash on half a
    library."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return hashlib.sha256(content[:-_DIGEST]).digest() == content[-_DIGEST:]


@cache
def _load_runtime() -> None:
    """Kernels call TVM's runtime for their workspace; it loads in milliseconds without `tvm`."""
    found = importlib.util.find_spec("tvm")
    assert found is not None and found.submodule_search_locations
    library = Path(found.submodule_search_locations[0]) / "lib" / "libtvm_runtime.so"
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def _compile(mod: Any, path: Path) -> None:
    import tvm

    cpu = tvm.get_global_func("target.llvm_get_system_cpu")()
    # Lanes and tiles are vectors in the TIR already: higher levels only took longer to build.
    library = tvm.compile(mod, target={"kind": "llvm", "mcpu": cpu, "opt-level": 1})
    # written beside its place and renamed: a reader sees a whole file or none
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        library.export_library(str(made))
        with made.open("ab") as file:
            file.write(hashlib.sha256(made.read_bytes()).digest())
        os.replace(made, path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def step_key(name: str, step: Step, lanes: int, dtype: str) -> str:
    """A file name that tells apart operators, versions of TVM and of this package, and CPUs."""
    return f"{name}-{lanes}x{dtype}-{_digest(_text(step))}"


def _digest(text: str) -> str:
    return hashlib.sha256(f"{_environment()}\n{text}".encode()).hexdigest()[:20]


def named_key(name: str, dtype: str) -> str:
    """Like `step_key` for a kernel that is not made from a step."""
    return f"{name}-{dtype}-{_digest(name)}"


def _text(step: Step) -> str:
    """The step as numbered lines; linear in its size."""
    roots = [*step.outputs, *step.next_states]
    number: dict[int, int] = {}
    lines = []
    for expr in in_order([*step.inputs, *step.params, *step.states, *roots]):
        number[id(expr)] = len(number)
        what = expr.name or (repr(expr.value) if expr.op == "const" else "")
        lines.append(f"{expr.op} {what} {[number[id(a)] for a in expr.args]}")
    return "\n".join([*lines, str([number[id(r)] for r in roots])])


@cache
def _environment() -> str:
    here = Path(__file__).parent
    sources = hashlib.sha256(b"".join((here / name).read_bytes() for name in _SOURCES))
    versions = [importlib.metadata.version(n) for n in ("apache-tvm", "apache-tvm-ffi")]
    return "\n".join([*versions, sources.hexdigest(), platform.machine(), _cpu()])


def _cpu() -> str:
    """Name and features of this CPU: code for another one may crash here."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    first: dict[str, str] = {}
    for line in lines:
        first.setdefault(line.split(":")[0].strip(), line)
    return "\n".join(first[name] for name in wanted if name in first)


@cache
def step_kernels(operator: SampleOperator, count: int, lanes: int, dtype: str) -> Any:
    """`forward`, `taped` and `backward` of a sample-wise operator with `count` parameters."""
    step = operator.step(count)

    def build() -> Any:
        from microddsp.relax_ops.host_kernel import module

        return module(step, differentiate(step), lanes, dtype)

    return load(step_key(operator.name, step, lanes, dtype), build)
