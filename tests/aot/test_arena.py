from hypothesis import given
from hypothesis import strategies as st

from microddsp.micro.aot.arena import ALIGN, Buffer, plan_arena

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
