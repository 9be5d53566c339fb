"""The header and source file of a model, from its program and signature."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jinja2
import numpy as np

from microddsp import __version__
from microddsp.micro.aot.calls import Place
from microddsp.micro.aot.helpers import helpers, own_names
from microddsp.micro.aot.interface import (
    input_values,
    output_values,
    pointers,
    process_arguments,
    process_values,
    push_values,
    setter_values,
    struct_of_outputs,
)
from microddsp.micro.aot.memory_options import MemoryOptions
from microddsp.micro.aot.program import Program
from microddsp.micro.aot.rewrites import c_double, c_float
from microddsp.micro.aot.setters import VALID, DesignProgram, Setter
from microddsp.micro.aot.states import StateMember, finite_checks, resets
from microddsp.micro.package.digest import digest_of
from microddsp.signature import KERNEL_TYPES, Signature


def render(
    program: Program,
    signature: Signature,
    states: Sequence[StateMember],
    *,
    fpu: bool,
    codes: Mapping[str, str] | None = None,
    memory: MemoryOptions | None = None,
    setters: Sequence[Setter] = (),
    designs: Sequence[DesignProgram] = (),
) -> dict[str, str]:
    """`{"name.h": ..., "name.c": ...}`; the same model always gives the same bytes.

    Kernels of which `codes` says something else than "c" are in an object file, and in the C only
    if a macro asks for them. Without an `fpu` states are looked at as integers.
    """
    name = signature.name
    apart = [k for k in program.kernels if (codes or {}).get(k.name, "c") != "c"]
    inside = [k for k in program.kernels if k not in apart]
    seldom = [k.text for design in designs for k in design.program.kernels]
    texts = [k.text for k in program.kernels] + seldom
    check = finite_checks(states, program.witnesses)
    tested = ["microddsp_bits("] if any(check.values()) and not fpu else []
    first = helpers([k.text for k in inside] + seldom + tested, name)
    more = [f for f in helpers(texts, name) if f not in first]
    values: dict[str, Any] = {
        "name": name,
        "NAME": name.upper(),
        "version": __version__,
        "signature": signature,
        "rate": _rate(signature.sample_rate_hz),
        "inputs": [input_values(i) for i in signature.inputs],
        "outputs_struct": struct_of_outputs(signature),
        "outputs": [output_values(o) for o in signature.outputs],
        "states": [
            {"name": s.name, "ctype": KERNEL_TYPES[str(s.initial.dtype)], "elements": s.elements}
            for s in states
        ],
        "constants": [
            _table(place, value)
            for constants in (program.constants, *(d.program.constants for d in designs))
            for place, value in constants
        ],
        "helpers": first,
        "booleans": any(re.search(r"\bbool\b", text) for text in texts),
        "kernels": [own_names(k.text, name) for k in inside],
        "more_helpers": more,
        "kernels_apart": [own_names(k.text, name) for k in apart],
        "sections": dict((memory or MemoryOptions()).sections),
        "constant_align": (memory or MemoryOptions()).constant_align,
        "declarations": [k.declaration for k in apart],
        "process_arguments": process_arguments(signature),
        "process_values": ", ".join(process_values(signature)),
        "null_checks": " || ".join(f"({p} == NULL)" for p in pointers(signature)),
        "accessors": _accessors(program, signature),
        "body": _body(program, name, struct_of_outputs(signature)),
        "reset_signal": resets(name, [s for s in states if not (s.kept or s.setting)]),
        "reset_rest": resets(name, [s for s in states if s.kept]),
        "settings": resets(name, [s for s in states if s.setting]),
        "setters": [setter_values(s) for s in setters],
        "designs": [_design(d, name) for d in designs],
        **push_values(signature),
        **check,
        "fpu": fpu,
    }
    values["constants"] += [
        _table(
            Place("constant", f"{s.name}_start", str(s.initial.dtype), s.initial.shape), s.initial
        )
        for s in states
        if s.initial.any()
    ]
    abi = _abi(_header(values | {"digest": "", "abi": 0}), signature.abi_version)
    digest = digest_of(_files(values | {"digest": "", "abi": abi}))
    return _files(values | {"digest": digest, "abi": abi})


def _abi(header: str, generation: int) -> int:
    """What tells one header from another, 2 to 255: a byte, which costs a comparison no more than
    any other number would, and neither of the two that memory holds most often."""
    text = f"{generation}\n{header}".encode()
    return 2 + int.from_bytes(hashlib.sha256(text).digest()[:4], "big") % 254


def _files(values: dict[str, Any]) -> dict[str, str]:
    name = values["name"]
    return {
        f"{name}.h": _header(values),
        f"{name}.c": _environment().get_template("model.c.j2").render(values),
    }


def _header(values: dict[str, Any]) -> str:
    return _environment().get_template("model.h.j2").render(values)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("microddsp.micro.aot", "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # C, not HTML; every name that gets here is a checked identifier
    )


def _rate(rate: float | None) -> str:
    if rate is None:
        return ""
    return f"{int(rate)}u" if rate == int(rate) else c_float(rate)


def _table(place: Place, value: np.ndarray) -> dict[str, Any]:
    flat = np.asarray(value).ravel()
    if place.dtype == "float32":
        texts = [c_float(float(v)) for v in flat]
    elif place.dtype == "float64":
        texts = [c_double(float(v)) for v in flat]
    else:
        texts = [str(int(v)) for v in flat]
    rows = [", ".join(texts[i : i + 6]) for i in range(0, len(texts), 6)]
    return {
        "name": place.name,
        "ctype": KERNEL_TYPES[place.dtype],
        "elements": len(texts),
        "rows": rows,
    }


def _design(design: DesignProgram, name: str) -> dict[str, Any]:
    """A function that computes settings from numbers, all or nothing."""
    program = design.program
    offsets = program.plan.offsets
    kernels = [own_names(k.text, name) for k in program.kernels]
    return {
        "index": design.index,
        "numbers": design.numbers,
        "nbytes": program.plan.nbytes,
        "inputs": [(number, offsets.get(f"input.{number}")) for number in design.numbers],
        "valid": offsets[f"output.{VALID}"],
        "outputs": [
            {"member": member, "elements": elements, "offset": offsets[f"output.{output}"]}
            for output, member, elements in design.settings
        ],
        "body": _body(program, name, False, "scratch.bytes"),
        "kernels": kernels,
    }


def _body(program: Program, name: str, several: bool, memory: str = "self->workspace") -> list[str]:
    lines = []
    for call in program.calls:
        if call.kernel is None:
            made, target = (_pointer(p, program, name, several, memory) for p in call.arguments)
            nbytes = call.arguments[1].nbytes
            lines.append(f"(void)memcpy({target}, {made}, {nbytes}u);")
        else:
            arguments = ", ".join(
                _pointer(p, program, name, several, memory) for p in call.arguments
            )
            lines.append(f"{call.kernel.name}({arguments});")
    return lines


def _at(dtype: str, offset: int, memory: str = "self->workspace") -> str:
    return f"({KERNEL_TYPES[dtype]} *)(void *)({memory} + {offset}u)"


def _accessors(program: Program, signature: Signature) -> list[dict[str, str]]:
    """Functions that tell where in the workspace inputs and outputs lie."""
    if not signature.io_in_arena:
        return []
    return [
        {
            "kind": kind,
            "name": spec.name,
            "NAME": spec.name.upper(),
            "ctype": KERNEL_TYPES[spec.dtype]
            if kind == "input"
            else f"const {KERNEL_TYPES[spec.dtype]}",
            "place": _at(spec.dtype, program.plan.offsets[f"{kind}.{spec.name}"]),
        }
        for kind, specs in (("input", signature.inputs), ("output", signature.outputs))
        for spec in specs
    ]


def _pointer(place: Place, program: Program, name: str, several: bool, memory: str) -> str:
    if place.kind == "state":
        return f"self->{place.name}"
    if place.kind == "constant":
        return f"{name}_{place.name}"
    if place.key in program.plan.offsets:
        return _at(place.dtype, program.plan.offsets[place.key], memory)
    if place.kind == "output" and several:
        return f"outputs->{place.name}"
    return place.name
