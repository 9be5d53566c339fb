"""`microddsp ops` tells what really is there: its table is compared with the classes."""

from __future__ import annotations

import inspect

import torch

from microddsp import dsp
from microddsp.cli.operators import OPERATORS
from microddsp.relax_ops.registry import operators

ABSTRACT = {"Block", "Filter"}


def test_every_block_is_listed_once() -> None:
    blocks = {
        name
        for name in dsp.__all__
        if inspect.isclass(getattr(dsp, name)) and issubclass(getattr(dsp, name), torch.nn.Module)
    }
    listed = [line.name for line in OPERATORS if line.kind == "block"]
    assert sorted(listed) == sorted(blocks - ABSTRACT)


def test_every_operator_is_listed_and_says_whether_it_compiles() -> None:
    listed = {line.name: line.compiles for line in OPERATORS if line.kind == "operator"}
    assert {name for name, compiles in listed.items() if compiles} == {
        entry.name
        for entry in operators()
        if entry.name != "decode_input"  # made by the compiler from `Input`, not by users
    }


def test_every_operator_is_known_to_torch() -> None:
    operators()
    for line in OPERATORS:
        if line.kind == "operator":
            assert hasattr(torch.ops.microddsp, line.name), line.name
