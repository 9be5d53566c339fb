from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import microddsp
from microddsp import dsp
from microddsp.errors import CompileError
from microddsp.micro.aot.arena import ALIGN, Buffer, Planner, most_at_once, plan_arena, plan_with
from microddsp.micro.aot.memory_options import MemoryOptions

buffers = st.lists(
    st.tuples(st.integers(1, 500), st.integers(0, 12), st.integers(0, 6)), max_size=14
).map(lambda rows: [Buffer(f"t{i}", n, a, a + d) for i, (n, a, d) in enumerate(rows)])


def test_buffers_that_never_meet_share_bytes() -> None:
    plan = plan_arena([Buffer("a", 64, 0, 1), Buffer("b", 32, 1, 2), Buffer("c", 64, 2, 3)])
    assert plan.nbytes == 96
    assert plan.offsets["a"] == plan.offsets["c"]


def test_no_buffers_need_no_arena() -> None:
    assert plan_arena([]).nbytes == 0


@given(buffers)
def test_buffers_alive_together_never_overlap(known: list[Buffer]) -> None:
    plan = plan_arena(known)
    for i, a in enumerate(known):
        assert plan.offsets[a.name] % ALIGN == 0
        assert plan.offsets[a.name] + a.nbytes <= plan.nbytes
        for b in known[:i]:
            if a.overlaps(b):
                apart = (
                    plan.offsets[a.name] + a.nbytes <= plan.offsets[b.name]
                    or plan.offsets[b.name] + b.nbytes <= plan.offsets[a.name]
                )
                assert apart


@given(buffers, st.randoms())
def test_the_plan_does_not_depend_on_the_order_of_buffers(known: list[Buffer], random) -> None:
    shuffled = list(known)
    random.shuffle(shuffled)
    assert plan_arena(known) == plan_arena(shuffled)


@given(buffers)
def test_the_arena_is_between_the_most_alive_at_once_and_the_sum(known: list[Buffer]) -> None:
    at_once = max(
        (sum(b.nbytes for b in known if b.first <= t <= b.last) for t in range(20)), default=0
    )
    padded = sum(-(-b.nbytes // ALIGN) * ALIGN for b in known)
    assert at_once <= plan_arena(known).nbytes <= padded


@given(st.lists(st.integers(1, 500), min_size=2, max_size=12))
def test_a_chain_never_needs_more_than_its_two_largest(sizes: list[int]) -> None:
    chain = [Buffer(f"t{i}", n, i, i + 1) for i, n in enumerate(sizes)]
    nbytes = plan_arena(chain).nbytes
    assert nbytes <= sum(sorted(sizes)[-2:]) + 2 * ALIGN
    assert nbytes == most_at_once(chain)


def test_climbing_finds_what_the_greedy_orders_miss() -> None:
    rows = [(72, 3, 5), (496, 5, 6), (40, 1, 3), (96, 2, 2), (280, 3, 4), (392, 0, 2), (328, 4, 5)]
    assert plan_of(rows) == 896 == most_at_once(buffers_of(rows))


def buffers_of(rows: list[tuple[int, int, int]]) -> list[Buffer]:
    return [Buffer(f"t{i}", n, first, last) for i, (n, first, last) in enumerate(rows)]


def plan_of(rows: list[tuple[int, int, int]]) -> int:
    return plan_arena(buffers_of(rows)).nbytes


@given(buffers, st.sampled_from([8, 16, 32]))
def test_every_offset_and_the_size_are_aligned(known: list[Buffer], align: int) -> None:
    plan = plan_arena(known, align=align)
    assert all(at % align == 0 for at in (*plan.offsets.values(), plan.nbytes))


def test_a_buffer_takes_the_place_of_one_that_gives_way() -> None:
    chain = [Buffer("a", 64, 0, 1), Buffer("b", 64, 1, 2), Buffer("c", 64, 2, 3)]
    plan = plan_arena(chain, inplace=[("a", "b"), ("b", "c")])
    assert (plan.nbytes, set(plan.offsets.values())) == (64, {0})


def test_a_buffer_of_one_step_does_not_hand_on_the_place_that_it_took() -> None:
    """Its giver and its taker would be alive together in the same place."""
    known = [Buffer(name, 8, 0, 0) for name in "abc"]
    for pairs in ([("a", "b"), ("b", "c")], [("b", "c"), ("c", "a")], [("a", "b"), ("b", "a")]):
        plan = plan_arena(known, inplace=pairs)
        assert len(plan.merged) == 1
        assert plan.nbytes == 16


def test_no_place_is_shared_where_that_saves_nothing() -> None:
    known = [Buffer("a", 64, 0, 1), Buffer("b", 64, 1, 2), Buffer("big", 512, 4, 4)]
    assert plan_arena(known, inplace=[("a", "b")]).merged == ()


@given(buffers, st.data())
def test_only_pairs_that_may_share_a_place_do(known: list[Buffer], data: st.DataObject) -> None:
    meets = [(a.name, b.name) for a in known for b in known if a.last == b.first and a is not b]
    chosen = data.draw(st.lists(st.sampled_from(meets), unique=True)) if meets else []
    plan = plan_arena(known, inplace=chosen)
    assert set(plan.merged) <= set(chosen)
    for i, a in enumerate(known):
        for b in known[:i]:
            x, y = plan.offsets[a.name], plan.offsets[b.name]
            if a.overlaps(b) and x < y + b.nbytes and y < x + a.nbytes:
                assert {(a.name, b.name), (b.name, a.name)} & set(plan.merged) and x == y


def side_by_side(known: Sequence[Buffer], align: int) -> dict[str, int]:
    offsets, at = {}, 0
    for b in known:
        offsets[b.name] = at
        at += -(-b.nbytes // align) * align
    return offsets


def test_a_planner_of_ones_own_is_used_and_gives_the_same_answers() -> None:
    pipeline = torch.nn.Sequential(dsp.Frames(32, 16), torch.nn.Linear(32, 8), torch.nn.Tanh())
    x = np.random.default_rng(0).standard_normal((1, 64)).astype("float32")
    options = MemoryOptions(planner=side_by_side)
    own = microddsp.compile(pipeline, torch.zeros(1, 16), target="host", memory=options)
    ours = microddsp.compile(pipeline, torch.zeros(1, 16), target="host")
    assert own.signature.workspace_bytes >= ours.signature.workspace_bytes
    assert {row[0]: row[2] for row in own.buffers} == side_by_side(
        [Buffer(row[0], row[1], row[3], row[4]) for row in own.buffers], 8
    )
    np.testing.assert_array_equal(own.run(x), ours.run(x))


@pytest.mark.parametrize(
    ("planner", "words"),
    [
        (lambda known, align: {"a": 0}, "place each buffer"),
        (lambda known, align: {"a": 0, "b": 12}, "not aligned"),
        (lambda known, align: {"a": 8, "b": 0}, "same place"),
        (lambda known, align: {"a": -8, "b": 16}, "not aligned"),
    ],
)
def test_a_wrong_plan_is_refused(planner: Planner, words: str) -> None:
    with pytest.raises(CompileError, match=words):
        plan_with(planner, [Buffer("a", 8, 0, 1), Buffer("b", 16, 1, 2)])
