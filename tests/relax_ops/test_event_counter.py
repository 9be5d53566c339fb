import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microddsp.errors import ParameterError, SignalError
from microddsp.relax_ops import event_counter
from microddsp.relax_ops.event_counter import _plain


def oracle(x: np.ndarray, high: float, low: float, refractory: int, state: np.ndarray):
    """The machine as its definition says it, one sample after another."""
    armed, wait, count = (int(v) for v in state)
    events = np.zeros(len(x))
    for n, value in enumerate(x):
        fire = armed and value > high and wait == 0
        if wait > 0:
            wait -= 1
        if fire:
            count, armed, wait, events[n] = count + 1, 0, refractory, 1
        elif not armed and value < low:
            armed = 1
    return count, events, np.array([armed, wait, count])


signals = st.lists(st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0, 2.0]), min_size=0, max_size=60)


@settings(max_examples=60, deadline=None)
@given(signals, st.integers(0, 12), st.integers(0, 1), st.integers(0, 5), st.integers(0, 9))
def test_the_machine_does_what_its_definition_says(values, refractory, armed, wait, count) -> None:
    x = np.array([values, values[::-1]], "float32").reshape(2, len(values))
    state = torch.tensor([[armed, wait, count]] * 2, dtype=torch.int32)
    thresholds = torch.tensor([0.6, 0.4])
    for run in (event_counter, _plain):
        got, events, last = run(torch.tensor(x), thresholds, state, refractory)
        for row in range(2):
            expected = oracle(x[row], 0.6, 0.4, refractory, state[row].numpy())
            assert got[row].item() == expected[0]
            np.testing.assert_array_equal(events[row], expected[1])
            np.testing.assert_array_equal(last[row], expected[2])


@settings(max_examples=40, deadline=None)
@given(signals, st.integers(0, 12), st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_any_chunking_equals_the_whole(values, refractory, sizes) -> None:
    x = torch.tensor([values], dtype=torch.float64).reshape(1, len(values))
    thresholds = torch.tensor([0.6, 0.4]).double()
    state = torch.zeros(1, 3, dtype=torch.int32)
    whole = event_counter(x, thresholds, state, refractory)
    at, parts = 0, []
    while at < len(values):
        size = sizes[len(parts) % len(sizes)]
        _, events, state = event_counter(x[:, at : at + size], thresholds, state, refractory)
        parts.append(events)
        at += size
    torch.testing.assert_close(state, whole[2], rtol=0, atol=0)
    if parts:
        torch.testing.assert_close(torch.cat(parts, -1), whole[1], rtol=0, atol=0)


def test_nothing_is_counted_before_the_signal_was_once_below_release() -> None:
    x = torch.tensor([[2.0, 2.0, 0.5, 2.0, 0.1, 2.0]])
    count, events, _ = event_counter(
        x, torch.tensor([1.0, 0.2]), torch.zeros(1, 3, dtype=torch.int32), 0
    )
    assert count.item() == 1 and events.argmax().item() == 5


def test_each_channel_may_have_its_own_thresholds() -> None:
    x = torch.tensor([[0.0, 1.0]]).expand(2, 2).contiguous()
    thresholds = torch.tensor([[0.5, 0.2], [1.5, 0.2]])
    count, _, _ = event_counter(x, thresholds, torch.zeros(2, 3, dtype=torch.int32), 0)
    assert count.flatten().tolist() == [1, 0]


def test_vmap_counts_each_signal() -> None:
    x = torch.tensor([[[0.0, 1.0, 0.0, 1.0]], [[0.0, 1.0, 1.0, 1.0]]])
    counts = torch.func.vmap(
        lambda one: event_counter(
            one, torch.tensor([0.6, 0.4]), torch.zeros(1, 3, dtype=torch.int32), 0
        )[0]
    )(x)
    assert counts.flatten().tolist() == [2, 1]


def test_the_torch_operator_passes_opcheck() -> None:
    torch.library.opcheck(
        torch.ops.microddsp.event_counter.default,
        (torch.randn(2, 30), torch.tensor([0.5, 0.2]), torch.zeros(2, 3, dtype=torch.int32), 3),
    )


def test_what_does_not_fit_is_refused() -> None:
    x, thresholds = torch.zeros(1, 4), torch.tensor([0.5, 0.2])
    state = torch.zeros(1, 3, dtype=torch.int32)
    with pytest.raises(ParameterError, match="refractory"):
        event_counter(x, thresholds, state, -1)
    with pytest.raises(SignalError, match="state is int32"):
        event_counter(x, thresholds, state.float(), 0)
    with pytest.raises(SignalError, match="thresholds are"):
        event_counter(x, thresholds.double(), state, 0)
