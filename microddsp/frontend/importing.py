"""From an exported program to Relax: rewrites, checks, TVM's importer with our converters."""

from __future__ import annotations

import torch
import tvm
from tvm.relax.frontend.torch import from_exported_program

from microddsp.errors import CompileError, MicroddspError
from microddsp.frontend.complex_pairs import split_complex
from microddsp.frontend.constant_folding import fold_constants
from microddsp.frontend.converters import check_supported, checked_converters
from microddsp.frontend.rewrites import mend
from microddsp.frontend.scans import attach_bodies
from microddsp.frontend.views import simplify_views
from microddsp.frontend.zero_factors import keep_zero_factors

# What TVM's importer raises for operators or arguments that it does not take.
_IMPORT_ERRORS = (
    RuntimeError,
    TypeError,
    ValueError,
    AssertionError,
    KeyError,
    AttributeError,
    IndexError,
    ArithmeticError,
)


def prepare(program: torch.export.ExportedProgram, *, doubles: bool = False) -> None:
    """Rewrite what the importer would get wrong, and refuse what cannot be compiled; float64 too
    unless `doubles`.

    Raises:
        UnsupportedOperatorError: Lists all that cannot.
    """
    attach_bodies(program)
    fold_constants(program)
    split_complex(program)
    keep_zero_factors(program)
    mend(program)
    fold_constants(program)  # what mending wrote out of constants
    simplify_views(program)
    check_supported(program, doubles=doubles)


def to_relax(program: torch.export.ExportedProgram) -> tvm.IRModule:
    """`main` takes the inputs and gives a tuple.

    Raises:
        CompileError: The importer refuses something.
    """
    try:
        return from_exported_program(
            program, custom_convert_map=checked_converters(), run_ep_decomposition=False
        )
    except MicroddspError:
        raise
    except _IMPORT_ERRORS as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise CompileError(f"the module cannot be imported: {first}") from error
