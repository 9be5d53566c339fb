"""Kernels on several threads give the bits that one thread gives."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.relax_ops import threads
from microddsp.relax_ops.threads import side_by_side, spans

SECTIONS = torch.tensor([[0.2, 0.1, 0.05, -0.9, 0.3], [1.0, -0.4, 0.0, 0.2, 0.1]])


@pytest.fixture(autouse=True)
def _every_size(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "SMALL", 0)
    yield
    torch.set_num_threads(before)


def filtered(count: int, rows: int, channels: int, forward: int, backward: int) -> list[Tensor]:
    """Outputs and gradients of a filter with `forward` and `backward` threads."""
    x = torch.randn(rows, channels, 37, generator=torch.Generator().manual_seed(rows))
    x.requires_grad_()
    sections = SECTIONS[:count].clone().requires_grad_()
    torch.set_num_threads(forward)
    y, state = relax_ops.sos(x, sections, torch.zeros(rows, channels, count, 2))
    torch.set_num_threads(backward)
    (y.square().sum() + state.sum()).backward()
    assert x.grad is not None and sections.grad is not None
    return [y.detach(), state.detach(), x.grad, sections.grad]


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 9, 17, 40])
@pytest.mark.parametrize(("forward", "backward"), [(2, 2), (3, 1), (1, 3)])
def test_a_filter_is_the_same_on_any_number_of_threads(
    rows: int, forward: int, backward: int
) -> None:
    for count in (1, 2):  # without a tape, and with one
        alone = filtered(count, rows, 2, 1, 1)
        for got, wanted in zip(filtered(count, rows, 2, forward, backward), alone, strict=True):
            assert torch.equal(got, wanted)


def test_a_counter_is_the_same_on_two_threads() -> None:
    x = torch.rand(7, 2, 50, generator=torch.Generator().manual_seed(0))
    results = []
    for number in (1, 2):
        torch.set_num_threads(number)
        state = torch.zeros(7, 2, 3, dtype=torch.int32)
        results.append(relax_ops.event_counter(x, torch.tensor([0.7, 0.4]), state, 2))
    for got, wanted in zip(*results, strict=True):
        assert torch.equal(got, wanted)
    assert int(results[0][0].sum()) > 20


def test_spans_cover_everything_once() -> None:
    assert spans(7, 3) == [(0, 2), (2, 4), (4, 7)]


def test_an_error_in_another_thread_arrives() -> None:
    torch.set_num_threads(2)

    def fail() -> None:
        raise ValueError("from the second")

    for tasks in ([lambda: None, fail], [fail, lambda: None]):
        with pytest.raises(ValueError, match="from the second"):
            side_by_side(tasks)
    done: list[int] = []
    side_by_side([lambda: done.append(0), lambda: done.append(1)])  # and the thread goes on
    assert sorted(done) == [0, 1]


def test_callers_at_the_same_time_do_not_wait_for_each_other() -> None:
    done: list[str] = []

    def inner(name: str) -> None:
        side_by_side([lambda: done.append(f"{name} first"), lambda: done.append(f"{name} second")])

    side_by_side([lambda: inner("a"), lambda: inner("b")])
    assert sorted(done) == ["a first", "a second", "b first", "b second"]


def _in_a_child(answer: multiprocessing.Queue[float]) -> None:
    answer.put(float(filtered(2, 17, 2, 2, 2)[0].sum()))


def test_a_forked_process_has_threads_of_its_own() -> None:
    expected = float(filtered(2, 17, 2, 2, 2)[0].sum())
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    child = context.Process(target=_in_a_child, args=(answer,))
    child.start()
    assert answer.get(timeout=300) == expected
    child.join(300)
