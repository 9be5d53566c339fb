"""Small functions that kernels call and the generated C brings along, under the model's name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from microddsp.relax_ops.copy import COPY
from microddsp.relax_ops.either import EITHER

_HELPERS = {
    "microddsp_max": (
        "/* The larger one; NaN if one of them is. */\n"
        "static inline float {name}_max(float a, float b)\n"
        "{{\n    return ((a > b) || (a != a)) ? a : b;\n}}\n"
    ),
    "microddsp_min": (
        "/* The smaller one; NaN if one of them is. */\n"
        "static inline float {name}_min(float a, float b)\n"
        "{{\n    return ((a < b) || (a != a)) ? a : b;\n}}\n"
    ),
    "microddsp_bits": (
        "/* The same 32 bits as an integer. */\n"
        "static inline int32_t {name}_bits(float value)\n"
        "{{\n    int32_t bits;\n    (void)memcpy(&bits, &value, sizeof(bits));\n"
        "    return bits;\n}}\n"
    ),
    "microddsp_float": (
        "/* The number that has these bits. */\n"
        "static inline float {name}_float(int32_t bits)\n"
        "{{\n    float value;\n    (void)memcpy(&value, &bits, sizeof(value));\n"
        "    return value;\n}}\n"
    ),
}
_COPY = (
    "/* {count} numbers at once, to where none of them is. */\n"
    "typedef struct {name}_of{count} {{\n    float value[{count}];\n}} {name}_of{count}_t;\n"
    "static inline void {name}_copy{count}(float *to, const float *from)\n"
    "{{\n    *({name}_of{count}_t *)to = *(const {name}_of{count}_t *)from;\n}}\n"
)


_EITHER = (
    "/* Where to read from; the other place need not be there. */\n"
    "#define {upper}_EITHER(first, a, b) ((first) ? (a) : (b))\n"
)


def helpers(kernels: Sequence[str], name: str) -> list[str]:
    """The C of all functions that these kernels and statements (C texts) call."""
    text = "".join(kernels)
    used = [_EITHER.format(upper=name.upper())] if f"{EITHER}(" in text else []
    used += [body.format(name=name) for helper, body in _HELPERS.items() if f"{helper}(" in text]
    counts = sorted({int(found) for found in re.findall(rf"\b{COPY}(\d+)\(", text)})
    return used + [_COPY.format(name=name, count=count) for count in counts]


def own_names(text: str, name: str) -> str:
    """A kernel that calls them by the model's names."""
    text = re.sub(rf"\b{COPY}(\d+)\(", rf"{name}_copy\1(", text)
    text = text.replace(f"{EITHER}(", f"{name.upper()}_EITHER(")
    for helper in _HELPERS:
        text = text.replace(f"{helper}(", f"{name}_{helper.removeprefix('microddsp_')}(")
    return text
