"""Small pieces of C that the peers' files share."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def array(name: str, values: Iterable[float], *, prefix: str = "static const float") -> str:
    """A C array of float32 that reads back exactly."""
    words = ", ".join(_literal(value) for value in np.ravel(np.asarray(values, "float32")))
    return f"{prefix} {name}[] = {{{words}}};\n"


def _literal(value: np.float32) -> str:
    text = np.format_float_scientific(value, unique=True)
    return f"{text}f" if value >= 0 else f"({text}f)"


def define(name: str, value: float) -> str:
    """A C macro of a float32."""
    return f"#define {name} {_literal(np.float32(value))}\n"
