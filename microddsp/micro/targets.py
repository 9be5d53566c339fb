"""Processors that code is made for: compiler, flags, what their floating-point unit can do."""

from __future__ import annotations

from dataclasses import dataclass

from microddsp.errors import CompileError, nearest

# Fused multiply-add is written out by us: the compiler must not choose it, or results would
# depend on the C standard asked for.
COMMON_FLAGS = ("-O3", "-std=c99", "-ffp-contract=off", "-ffunction-sections", "-fdata-sections")


@dataclass(frozen=True, slots=True)
class Target:
    """A processor. `fma`: write fused multiply-adds (it has them in hardware)."""

    name: str
    description: str
    cpu: str
    c_flags: tuple[str, ...]
    fpu: bool
    fma: bool
    compiler: str = "arm-none-eabi-gcc"


def _arm(name: str, description: str, cpu: str, fpu: str = "") -> Target:
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
    )


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        _arm("cortex-m0", "Armv6-M, no floating-point unit", "cortex-m0"),
        _arm("cortex-m3", "Armv7-M, no floating-point unit", "cortex-m3"),
        _arm("cortex-m4f", "Armv7E-M, single-precision unit", "cortex-m4", "fpv4-sp-d16"),
        _arm("cortex-m7", "Armv7E-M, single-precision unit", "cortex-m7", "fpv5-sp-d16"),
        _arm("cortex-m33", "Armv8-M, single-precision unit", "cortex-m33", "fpv5-sp-d16"),
        _arm("cortex-m55", "Armv8.1-M, scalar floating point and MVE", "cortex-m55", "auto"),
        Target(
            "host",
            "this computer, with fused multiply-adds as on a device",
            "native",
            ("-fPIC", *COMMON_FLAGS),
            fpu=True,
            fma=True,
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
