"""The header and source file of a model, from its program and signature."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2
import numpy as np

from microddsp import __version__
from microddsp.micro.aot.calls import Place
from microddsp.micro.aot.helpers import helpers, own_names
from microddsp.micro.aot.memory_options import MemoryOptions
from microddsp.micro.aot.program import Program
from microddsp.micro.aot.rewrites import c_double, c_float
from microddsp.micro.aot.setters import VALID, DesignProgram, Setter
from microddsp.micro.package.digest import digest_of
from microddsp.signature import KERNEL_TYPES, InputSpec, Signature, TensorSpec

# So many elements of a state are added one by one, more in a loop.
MOST_TERMS = 4
# So many zeros are written one by one: compilers call a library for more.
_FEW_ZEROS = 16
_ZEROS = {"float32": "0.0f", "float64": "0.0"}


@dataclass(frozen=True, slots=True)
class StateMember:
    """A member of the state struct. `recursive` ones are checked for NaN after each block;
    `kept` ones (counts) survive when a NaN was found and the signal starts anew; a `setting` is no
    memory of the signal at all: only `init` and its setter write it."""

    name: str
    initial: np.ndarray
    recursive: bool
    kept: bool = False
    setting: bool = False

    @property
    def elements(self) -> int:
        return int(self.initial.size)


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
    check = _check(states, program.witnesses)
    tested = ["microddsp_bits("] if any(check.values()) and not fpu else []
    first = helpers([k.text for k in inside] + seldom + tested, name)
    more = [f for f in helpers(texts, name) if f not in first]
    values: dict[str, Any] = {
        "name": name,
        "NAME": name.upper(),
        "version": __version__,
        "signature": signature,
        "rate": _rate(signature.sample_rate_hz),
        "inputs": [_input(i) for i in signature.inputs],
        "outputs_struct": _struct_of_outputs(signature),
        "outputs": [_output(o) for o in signature.outputs],
        "states": [
            {"name": s.name, "ctype": _ctype(str(s.initial.dtype)), "elements": s.elements}
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
        "process_arguments": _process_arguments(signature),
        "process_values": ", ".join(_process_values(signature)),
        "null_checks": " || ".join(f"({p} == NULL)" for p in _pointers(signature)),
        "accessors": _accessors(program, signature),
        "body": _body(program, name, _struct_of_outputs(signature)),
        "reset_signal": _resets(name, [s for s in states if not (s.kept or s.setting)]),
        "reset_rest": _resets(name, [s for s in states if s.kept]),
        "settings": _resets(name, [s for s in states if s.setting]),
        "setters": [_setter(s) for s in setters],
        "designs": [_design(d, name) for d in designs],
        **_push(signature),
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
    bare = _files(values | {"digest": ""})
    digest = digest_of(bare)
    return _files(values | {"digest": digest})


def _files(values: dict[str, Any]) -> dict[str, str]:
    name = values["name"]
    return {
        f"{name}.h": _environment().get_template("model.h.j2").render(values),
        f"{name}.c": _environment().get_template("model.c.j2").render(values),
    }


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


def _ctype(dtype: str) -> str:
    return KERNEL_TYPES[dtype]


def _is_float(state: StateMember) -> bool:
    return str(state.initial.dtype) == "float32"


def _rate(rate: float | None) -> str:
    if rate is None:
        return ""
    return f"{int(rate)}u" if rate == int(rate) else c_float(rate)


def _input(spec: InputSpec) -> dict[str, Any]:
    signal = len(spec.shape) == 2
    channels = spec.shape[1 if spec.interleaved else 0] if signal else 0
    layout = ""
    if signal and channels > 1:
        layout = "interleaved: one sample of every channel after another"
        if not spec.interleaved:
            layout = "channel after channel"
    return {
        "NAME": spec.name.upper(),
        "elements": spec.elements,
        "channels": channels,
        "layout": layout,
        "scaled": spec.dtype != "float32" or spec.scale != 1.0 or spec.offset != 0.0,
        "scale": c_float(spec.scale),
        "offset": c_float(spec.offset),
        "unit": f" in {_comment(spec.unit)}" if spec.unit else "",
    }


def _comment(text: str) -> str:
    """User text inside a C comment: no way out of it, no line breaks."""
    return "".join(ch if ch.isprintable() else " " for ch in text).replace("*/", "* /")


def _output(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "NAME": spec.name.upper(),
        "ctype": _ctype(spec.dtype),
        "elements": spec.elements,
    }


def _process_arguments(signature: Signature) -> str:
    name = signature.name
    types = [f"{name}_t"]
    if not signature.io_in_arena:
        types += [f"const {_ctype(i.dtype)}" for i in signature.inputs]
        several = _struct_of_outputs(signature)
        types.append(f"const {name}_outputs_t" if several else _ctype(signature.outputs[0].dtype))
    values = _process_values(signature)
    return ", ".join(f"{kind} *{value}" for kind, value in zip(types, values, strict=True))


def _process_values(signature: Signature) -> list[str]:
    if signature.io_in_arena:
        return ["self"]
    last = "outputs" if _struct_of_outputs(signature) else signature.outputs[0].name
    return ["self", *(i.name for i in signature.inputs), last]


def _struct_of_outputs(signature: Signature) -> bool:
    """Whether `process` takes several outputs, as one struct of pointers."""
    return len(signature.outputs) > 1 and not signature.io_in_arena


def _pointers(signature: Signature) -> list[str]:
    names = _process_values(signature)
    if not _struct_of_outputs(signature):
        return names
    return [*names, *(f"outputs->{o.name}" for o in signature.outputs)]


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
        "ctype": _ctype(place.dtype),
        "elements": len(texts),
        "rows": rows,
    }


def _check(
    states: Sequence[StateMember], witnesses: Mapping[str, tuple[int, ...]]
) -> dict[str, list[Any]]:
    """What is added up to find a state that is not finite: `check_terms`, single elements, and
    `check_loops`, elements one `step` after another."""
    terms: list[str] = []
    loops: list[dict[str, Any]] = []
    for s in states:
        if not (s.recursive and _is_float(s)):
            continue
        rows = s.initial.shape[0] if s.initial.ndim else 1
        per_row = s.elements // max(rows, 1)
        chosen = witnesses.get(s.name, tuple(range(per_row)))
        known = [row * per_row + i for row in range(rows) for i in chosen]
        if len(known) <= MOST_TERMS:
            terms += [f"self->{s.name}[{i}]" for i in known]
        elif len(chosen) == per_row:
            loops.append({"name": s.name, "first": 0, "elements": s.elements, "step": 1})
        else:
            loops += [
                {"name": s.name, "first": i, "elements": s.elements, "step": per_row}
                for i in chosen
            ]
    return {"check_terms": terms, "check_loops": loops}


def _setter(setter: Setter) -> dict[str, Any]:
    return {
        "name": setter.name,
        "NAME": setter.name.upper(),
        "path": _comment(setter.path),
        "scalar": setter.scalar,
        "elements": int(setter.value.size),
        "member": setter.member,
        "design": setter.design,
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


def _push(signature: Signature) -> dict[str, Any]:
    """How `push` collects blocks: `straight` if one that is whole needs no copy."""
    arguments = _process_arguments(signature).split(", ")
    values = _process_values(signature)
    buffers = [
        {
            "name": spec.name,
            "ctype": _ctype(spec.dtype),
            "elements": spec.elements,
            "rows": 1 if spec.interleaved else spec.elements // signature.block,
            "width": spec.elements // signature.block if spec.interleaved else 1,
        }
        for spec in (signature.inputs if signature.push else ())
    ]
    count = len(buffers)
    return {
        "push_buffers": buffers,
        "push_arguments": ", ".join(
            [
                *arguments[: 1 + count],
                "uint32_t samples",
                "uint32_t *taken",
                *arguments[1 + count :],
            ]
        ),
        "push_checks": " || ".join(f"({p} == NULL)" for p in [*_pointers(signature), "taken"]),
        "push_straight": all(buffer["rows"] == 1 for buffer in buffers),
        "push_outputs": ", ".join(values[1 + count :]),
    }


def _resets(name: str, states: Sequence[StateMember]) -> list[str]:
    """Statements that give states their initial values."""
    zeros = sum(s.elements for s in states if not s.initial.any())
    return [line for s in states for line in _reset(name, s, one_by_one=zeros <= _FEW_ZEROS)]


def _reset(name: str, state: StateMember, *, one_by_one: bool) -> list[str]:
    member = f"self->{state.name}"
    if state.initial.any():
        return [f"(void)memcpy({member}, {name}_{state.name}_start, sizeof({member}));"]
    if not one_by_one:
        return [f"(void)memset({member}, 0, sizeof({member}));"]
    zero = _ZEROS.get(str(state.initial.dtype), "0")
    return [f"{member}[{i}] = {zero};" for i in range(state.elements)]


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
    return f"({_ctype(dtype)} *)(void *)({memory} + {offset}u)"


def _accessors(program: Program, signature: Signature) -> list[dict[str, str]]:
    """Functions that tell where in the workspace inputs and outputs lie."""
    if not signature.io_in_arena:
        return []
    return [
        {
            "kind": kind,
            "name": spec.name,
            "NAME": spec.name.upper(),
            "ctype": _ctype(spec.dtype) if kind == "input" else f"const {_ctype(spec.dtype)}",
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
