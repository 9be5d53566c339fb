"""An exported program in the operators that the importer knows."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch.export import ExportedProgram, exported_program

from microddsp.frontend.aten import decompositions

_Table = dict[Any, Callable[..., Any]]
_OPTIONS = {
    "cia_to_decomp",
    "python_decomp_table",
    "joint_loss_index",
    "decompose_custom_triton_ops",
}


def decompose(program: ExportedProgram) -> ExportedProgram:
    """`program.run_decompositions(decompositions())`, in half the time.

    torch replaces each of its 500 composite operators by what they do already, lists them three
    times and puts all back in the end, for every program. Without that they are decomposed just as
    well; only those need it that torch keeps or takes apart in another way.
    """
    if not _is_known():
        return program.run_decompositions(decompositions())
    return _run(program, *_tables())


def retrace(program: ExportedProgram) -> ExportedProgram:
    """Without writes in place; operators stay. For parts of what was decomposed already, in which
    no composite operators are left."""
    return _run(program, {}, {}) if _is_known() else program.run_decompositions({})


@functools.cache
def all_decompositions() -> _Table:
    """All decompositions, for `make_fx`. Composite operators that a user registers later are taken
    apart before they get there."""
    return decompositions()


def _is_known() -> bool:
    """Whether this version of torch has the inner interface."""
    inner = getattr(exported_program, "_decompose_exported_program", _is_known)
    return set(inspect.signature(inner).parameters) == {"ep", *_OPTIONS}


def _run(program: ExportedProgram, composite: _Table, others: _Table) -> ExportedProgram:
    decomposed: ExportedProgram = exported_program._decompose_exported_program(
        program,
        cia_to_decomp=composite,
        python_decomp_table=others,
        joint_loss_index=None,
        decompose_custom_triton_ops=False,
    )
    return decomposed


@functools.cache
def _tables() -> tuple[_Table, _Table]:
    """Composite operators that do not simply become what they are made of, and all others."""
    composite, others = exported_program._split_decomp_table_to_cia_and_python_decomp(
        dict(all_decompositions())
    )
    # A partial is torch's own kernel in C++.
    kept = {op: f for op, f in composite.items() if not isinstance(f, functools.partial)}
    return kept, others
