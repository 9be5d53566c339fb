"""The kernel of a function with what is chosen for it: constants in fewer bits, fused products."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import tirx

from microddsp.micro.aot.kernel import Kernel, generate
from microddsp.micro.aot.narrow import Stored, stored
from microddsp.relax_ops.choices import KEY, answering, choose, session


def narrowed(constants: Mapping[int, np.ndarray]) -> dict[int, Stored]:
    """Which constants, by their places among the arguments, can be stored in fewer bits."""
    found = {i: stored(values) for i, values in constants.items()}
    return {i: table for i, table in found.items() if table is not None}


def as_stored(kernel: Kernel, tables: Mapping[int, Stored]) -> dict[int, Stored]:
    """Those that the kernel really reads so."""
    return {i: t for i, t in tables.items() if kernel.parameters[i].dtype != "float32"}


def code_of(
    func: tirx.PrimFunc,
    name: str,
    *,
    fma: bool,
    restrict: str,
    tables: Mapping[int, Stored],
) -> Kernel:
    """The kernel of a function, with the choices that its key stands for."""
    active, key = session(), (func.attrs or {}).get(KEY)
    if active is None or key is None:
        return with_choices(func, name, fma=fma, restrict=restrict, tables=tables)
    with answering(active.of(str(key))):
        return with_choices(func, name, fma=fma, restrict=restrict, tables=tables)


def with_choices(
    func: tirx.PrimFunc,
    name: str,
    *,
    fma: bool,
    restrict: str,
    tables: Mapping[int, Stored],
) -> Kernel:
    """The kernel of a function; asks whether products and sums are fused if there are any."""
    kernel = generate(func, name, fma=fma, restrict=restrict, tables=tables)
    if "fmaf(" in kernel.body and choose("fma", ("yes", "no"), "yes") == "no":
        return generate(func, name, fma=False, restrict=restrict, tables=tables)
    return kernel
