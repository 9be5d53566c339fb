"""Processors that code is made for: compiler, flags, what their floating-point unit can do."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from microddsp.errors import CompileError, nearest

# Fused multiply-add is written out by us: the compiler must not choose it, or results would
# depend on the C standard asked for.
COMMON_FLAGS = ("-O3", "-std=c99", "-ffp-contract=off", "-ffunction-sections", "-fdata-sections")


@dataclass(frozen=True, slots=True)
class Target:
    """A processor. `fma`: write fused multiply-adds (it has them in hardware). `triple` and
    `llvm_features` are LLVM's names for it."""

    name: str
    description: str
    cpu: str
    c_flags: tuple[str, ...]
    fpu: bool
    fma: bool
    triple: str
    llvm_features: tuple[str, ...] = ()
    compiler: str = "arm-none-eabi-gcc"


_FPV5 = "fpv5-sp-d16"
# LLVM must not choose fused multiply-adds either; in vectors (MVE) it cannot be kept from it.
_ROUND_APART = ("+slowfpvfmx",)
_NO_VECTORS = ("-mve", "-mve.fp")


def _arm(name: str, description: str, cpu: str, arch: str, fpu: str = "") -> Target:
    floats = ("-mfloat-abi=hard", f"-mfpu={fpu}") if fpu else ("-mfloat-abi=soft",)
    if fpu == "auto":
        floats = ("-mfloat-abi=hard",)
    return Target(
        name,
        description,
        cpu,
        (f"-mcpu={cpu}", "-mthumb", *floats, *COMMON_FLAGS),
        fpu=bool(fpu),
        fma=bool(fpu),
        triple=f"thumb{arch}-none-eabi",
        llvm_features=(_ROUND_APART if fpu else ()) + (_NO_VECTORS if fpu == "auto" else ()),
    )


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        _arm("cortex-m0", "Armv6-M, no floating-point unit", "cortex-m0", "v6m"),
        _arm("cortex-m3", "Armv7-M, no floating-point unit", "cortex-m3", "v7m"),
        _arm("cortex-m4f", "Armv7E-M, single-precision unit", "cortex-m4", "v7em", "fpv4-sp-d16"),
        _arm("cortex-m7", "Armv7E-M, single-precision unit", "cortex-m7", "v7em", _FPV5),
        _arm("cortex-m33", "Armv8-M, single-precision unit", "cortex-m33", "v8m.main", _FPV5),
        _arm(
            "cortex-m55",
            "Armv8.1-M, scalar floating point and MVE",
            "cortex-m55",
            "v8.1m.main",
            "auto",
        ),
        Target(
            "host",
            "this computer, with fused multiply-adds as on a device",
            "native",
            ("-fPIC", *COMMON_FLAGS),
            fpu=True,
            fma=True,
            triple=f"{platform.machine()}-linux-gnu",
            compiler="cc",
        ),
    )
}


def find_target(name: str) -> Target:
    """The target of that name.

    Raises:
        CompileError: There is none; the hint names the nearest.
    """
    if name not in TARGETS:
        raise CompileError(f"unknown target {name!r}", hint=nearest(name, TARGETS))
    return TARGETS[name]
