"""What the callers of a model's C functions see: arguments, pointers, macros of each tensor."""

from __future__ import annotations

from typing import Any

from microddsp.micro.aot.rewrites import c_float
from microddsp.micro.aot.setters import Setter
from microddsp.signature import KERNEL_TYPES, InputSpec, Signature, TensorSpec


def input_values(spec: InputSpec) -> dict[str, Any]:
    """What the header tells of an input: its size, its layout, its unit."""
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


def output_values(spec: TensorSpec) -> dict[str, Any]:
    """What the header tells of an output."""
    return {
        "name": spec.name,
        "NAME": spec.name.upper(),
        "ctype": KERNEL_TYPES[spec.dtype],
        "elements": spec.elements,
    }


def process_arguments(signature: Signature) -> str:
    """The parameters of `process`, as declared."""
    name = signature.name
    types = [f"{name}_t"]
    if not signature.io_in_arena:
        types += [f"const {KERNEL_TYPES[i.dtype]}" for i in signature.inputs]
        several = struct_of_outputs(signature)
        types.append(
            f"const {name}_outputs_t" if several else KERNEL_TYPES[signature.outputs[0].dtype]
        )
    values = process_values(signature)
    return ", ".join(f"{kind} *{value}" for kind, value in zip(types, values, strict=True))


def process_values(signature: Signature) -> list[str]:
    """Their names."""
    if signature.io_in_arena:
        return ["self"]
    last = "outputs" if struct_of_outputs(signature) else signature.outputs[0].name
    return ["self", *(i.name for i in signature.inputs), last]


def struct_of_outputs(signature: Signature) -> bool:
    """Whether `process` takes several outputs, as one struct of pointers."""
    return len(signature.outputs) > 1 and not signature.io_in_arena


def pointers(signature: Signature) -> list[str]:
    """All that a caller could give as NULL."""
    names = process_values(signature)
    if not struct_of_outputs(signature):
        return names
    return [*names, *(f"outputs->{o.name}" for o in signature.outputs)]


def push_values(signature: Signature) -> dict[str, Any]:
    """How `push` collects blocks: `straight` if one that is whole needs no copy."""
    arguments = process_arguments(signature).split(", ")
    values = process_values(signature)
    buffers = [
        {
            "name": spec.name,
            "ctype": KERNEL_TYPES[spec.dtype],
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
        "push_checks": " || ".join(f"({p} == NULL)" for p in [*pointers(signature), "taken"]),
        "push_straight": all(buffer["rows"] == 1 for buffer in buffers),
        "push_outputs": ", ".join(values[1 + count :]),
    }


def setter_values(setter: Setter) -> dict[str, Any]:
    """What the templates print of a setter."""
    return {
        "name": setter.name,
        "NAME": setter.name.upper(),
        "path": _comment(setter.path),
        "scalar": setter.scalar,
        "elements": int(setter.value.size),
        "member": setter.member,
        "design": setter.design,
    }


def _comment(text: str) -> str:
    """User text inside a C comment: no way out of it, no line breaks."""
    return "".join(ch if ch.isprintable() else " " for ch in text).replace("*/", "* /")
