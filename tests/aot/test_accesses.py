"""When a kernel uses each element: which of its parameters may share memory."""

from __future__ import annotations

import pytest
from tvm import tirx
from tvm.script import tirx as T

from microddsp.micro.aot.accesses import Accesses, accesses_of


@T.prim_func
def same(x: T.handle("float32", "global"), y: T.handle("float32", "global")):
    a = T.decl_buffer((8,), data=x)
    b = T.decl_buffer((8,), data=y)
    for i in range(8):
        b[i] = a[i] * T.float32(2)


@T.prim_func
def later(x: T.handle("float32", "global"), y: T.handle("float32", "global")):
    a = T.decl_buffer((9,), data=x)
    b = T.decl_buffer((8,), data=y)
    for i in range(8):
        b[i] = a[i + 1]


@T.prim_func
def earlier(x: T.handle("float32", "global"), y: T.handle("float32", "global")):
    a = T.decl_buffer((8,), data=x)
    b = T.decl_buffer((9,), data=y)
    for i in range(8):
        b[i + 1] = a[i]


@T.prim_func
def backwards(x: T.handle("float32", "global"), y: T.handle("float32", "global")):
    a = T.decl_buffer((8,), data=x)
    b = T.decl_buffer((8,), data=y)
    for i in range(8):
        b[7 - i] = a[i]


@T.prim_func
def pairs(x: T.handle("float32", "global"), y: T.handle("float32", "global")):
    a = T.decl_buffer((8,), data=x)
    b = T.decl_buffer((4,), data=y)
    for i in range(4):
        b[i] = a[i * 2] + a[i * 2 + 1]


@T.prim_func
def twice(x: T.handle("float32", "global"), y: T.handle("float32", "global")):
    a = T.decl_buffer((8,), data=x)
    b = T.decl_buffer((8,), data=y)
    for _ in range(2):
        for i in range(8):
            b[i] = a[i]


@T.prim_func
def matrix(x: T.handle("float32", "global"), y: T.handle("float32", "global")):
    a = T.decl_buffer((4,), data=x)
    b = T.decl_buffer((3,), data=y)
    for i in range(3):
        b[i] = T.float32(0)
        for k in range(4):
            b[i] = b[i] + a[k]


@T.prim_func
def looked_up(x: T.handle("int32", "global"), y: T.handle("int32", "global")):
    a = T.decl_buffer((8,), "int32", data=x)
    b = T.decl_buffer((8,), "int32", data=y)
    for i in range(8):
        b[i] = a[a[i]]


@T.prim_func
def stages(
    x: T.handle("float32", "global"),
    y: T.handle("float32", "global"),
    s: T.handle("float32", "global"),
):
    a = T.decl_buffer((8,), data=x)
    b = T.decl_buffer((8,), data=y)
    c = T.decl_buffer((8,), data=s)
    for i in range(8):
        c[i] = a[7 - i]
    for i in range(8):
        b[i] = c[i] + c[0]


def accesses(func: tirx.PrimFunc) -> Accesses:
    counts = [int(s.buffer.shape[0]) for s in func.body.seq if isinstance(s, tirx.DeclBuffer)]
    found = accesses_of(func.body, func.params, counts)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("func", "expected"),
    [
        (same, True),
        (later, True),
        (earlier, False),
        (backwards, False),
        (pairs, True),
        (twice, False),
        (matrix, False),
        (looked_up, False),
    ],
    ids=lambda value: value.attrs["global_symbol"] if hasattr(value, "attrs") else str(value),
)
def test_an_output_may_lie_where_each_element_was_read_before(
    func: tirx.PrimFunc, expected: bool
) -> None:
    assert accesses(func).gives_way(0, 1) is expected


def test_statements_tell_from_when_to_when_memory_is_used() -> None:
    found = accesses(stages)
    first, second = found.statements - 2, found.statements - 1
    assert found.spans == ((first, first), (second, second), (first, second))
    assert found.gives_way(0, 1)
    assert not found.gives_way(0, 2) and not found.gives_way(2, 1)


@T.prim_func
def open_ended(x: T.handle("float32", "global"), n: T.int32):
    a = T.decl_buffer((8,), data=x)
    for i in range(n):
        a[i] = T.float32(0)


def test_a_loop_without_known_bounds_is_not_judged() -> None:
    assert accesses_of(open_ended.body, [open_ended.params[0]], [8]) is None
