"""Operators over blocks: PyTorch against references, any chunking, and the kernels of Relax."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import scipy.signal
import torch
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from tvm import relax, tirx

from microddsp.errors import ParameterError, SignalError
from microddsp.micro.aot.llvm import without_helpers
from microddsp.relax_ops.between import between
from microddsp.relax_ops.causal_conv1d import causal_conv1d
from microddsp.relax_ops.decimate import decimate
from microddsp.relax_ops.delay import delay
from microddsp.relax_ops.fir import fir
from microddsp.relax_ops.first_sample import first_sample
from microddsp.relax_ops.frames import frames
from microddsp.relax_ops.registry import call
from microddsp.relax_ops.resample import resample
from microddsp.relax_ops.table import table
from microddsp.relax_ops.tapped_delay import tapped_delay

STREAM = settings(max_examples=25, deadline=None)


def random(*shape: int, dtype: torch.dtype = torch.float64, grad: bool = False) -> Tensor:
    return torch.randn(*shape, dtype=dtype).requires_grad_(grad)


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# ---- PyTorch


@pytest.mark.parametrize("samples", [1, 3, 50])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_fir_is_what_scipy_calls_lfilter(samples: int, length: int) -> None:
    x, taps = random(2, 3, samples), random(length)
    y, _ = fir(x, taps, torch.zeros(2, 3, length - 1, dtype=x.dtype))
    expected = scipy.signal.lfilter(taps.numpy(), [1.0], x.numpy())
    np.testing.assert_allclose(y.numpy(), expected, atol=1e-12)


def test_fir_takes_taps_for_each_channel() -> None:
    x, taps, state = random(2, 3, 20), random(3, 5), random(2, 3, 4)
    y, new_state = fir(x, taps, state)
    for c in range(3):
        alone, _ = fir(x[:, c : c + 1], taps[c], state[:, c : c + 1])
        torch.testing.assert_close(y[:, c : c + 1], alone)
    torch.testing.assert_close(new_state, x[..., -4:])


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "groups"), [(3, 1, 1, 1), (3, 3, 2, 2), (1, 2, 1, 4)]
)
def test_causal_conv1d_is_conv1d_with_padding_on_the_left(
    kernel: int, stride: int, dilation: int, groups: int
) -> None:
    x, weight, bias = random(2, 4, 12), random(8, 4 // groups, kernel), random(8)
    past = (kernel - 1) * dilation
    state = torch.zeros(2, 4, past, dtype=x.dtype)
    y, _ = causal_conv1d(x, weight, bias, state, stride, dilation, groups)
    padded = torch.nn.functional.pad(x, (past, 0))
    expected = torch.nn.functional.conv1d(
        padded, weight, bias, stride=stride, dilation=dilation, groups=groups
    )
    torch.testing.assert_close(y, expected)


def test_decimate_keeps_the_first_of_each_group() -> None:
    x = torch.arange(12.0).reshape(1, 12)
    assert decimate(x, 4).tolist() == [[0.0, 4.0, 8.0]]


def test_a_frame_ends_at_the_end_of_its_hop() -> None:
    x = torch.arange(1.0, 7.0).reshape(1, 6)
    y, state = frames(x, 5, 2, torch.zeros(1, 3))
    assert y.tolist() == [[[0, 0, 0, 1, 2]], [[0, 1, 2, 3, 4]], [[2, 3, 4, 5, 6]]]
    assert state.tolist() == [[4, 5, 6]]


def test_the_first_sample_sets_the_state_once() -> None:
    gain, zero = torch.tensor([2.0, 3.0]), torch.zeros(1, 1)
    state, held, started = first_sample(
        torch.full((1, 4), 5.0), gain, torch.zeros(1, 2), zero, torch.zeros(1, dtype=torch.int32)
    )
    assert state.tolist() == [[10.0, 15.0]] and held.tolist() == [[5.0]] and started.item() == 1
    again = first_sample(torch.ones(1, 4), gain, state, held, started)
    assert again[0].equal(state) and again[1].equal(held)


def test_a_delay_shifts() -> None:
    x = torch.arange(1.0, 6.0)[None]
    for samples in (1, 4, 5, 7):
        y, state = delay(x, samples, torch.zeros(1, samples))
        both = torch.cat([torch.zeros(1, samples), x], -1)
        assert y.equal(both[:, :5]) and state.equal(both[:, 5:])


def test_taps_in_the_past_are_a_long_filter_of_zeros() -> None:
    x, taps, state = random(2, 3, 20), random(3, 2), random(2, 3, 9)
    y, following = tapped_delay(x, taps, ints(0, 3, 8), state)
    full = torch.zeros(3, 10, dtype=x.dtype)
    for c, offset in enumerate((0, 3, 8)):
        full[c, offset : offset + 2] = taps[c]
    expected, last = fir(x, full, state)
    torch.testing.assert_close((y, following), (expected, last))


@pytest.mark.parametrize(("up", "down"), [(1, 3), (3, 1), (3, 2), (2, 5), (7, 4)])
def test_resampling_is_scipys_upfirdn(up: int, down: int) -> None:
    x, taps = random(2, 60), random(4 * up)
    y, _ = resample(x, taps, torch.zeros(2, 3, dtype=x.dtype), up, down)
    expected = scipy.signal.upfirdn(taps.numpy(), x.numpy(), up, down)[..., : y.shape[-1]]
    np.testing.assert_allclose(y, expected, atol=1e-12)


def chunked(
    run: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    state: Tensor,
    sizes: Sequence[int],
    along: int,
) -> tuple[Tensor, Tensor]:
    outputs = []
    for block in x.split(list(sizes), -1):
        y, state = run(block, state)
        outputs.append(y)
    return torch.cat(outputs, along), state


@STREAM
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6), length=st.integers(1, 9))
def test_fir_over_chunks_is_fir_over_the_whole(sizes: list[int], length: int) -> None:
    x, taps, state = random(2, sum(sizes)), random(2, length), random(2, length - 1)
    y, last = chunked(lambda b, s: fir(b, taps, s), x, state, sizes, -1)
    torch.testing.assert_close((y, last), fir(x, taps, state))


@STREAM
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    kernel=st.integers(1, 4),
)
def test_causal_conv1d_over_chunks_is_one_over_the_whole(
    sizes: list[int], stride: int, dilation: int, kernel: int
) -> None:
    sizes = [size * stride for size in sizes]
    weight, bias = random(4, 1, kernel), random(4)
    x, state = random(2, sum(sizes)), random(2, (kernel - 1) * dilation)

    def run(block: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        return causal_conv1d(block, weight, bias, past, stride, dilation, 2)

    torch.testing.assert_close(chunked(run, x, state, sizes, -1), run(x, state))


@STREAM
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    hop=st.integers(1, 4),
    overlap=st.integers(0, 7),
)
def test_frames_over_chunks_are_those_of_the_whole(
    sizes: list[int], hop: int, overlap: int
) -> None:
    sizes = [size * hop for size in sizes]
    x, state = random(2, sum(sizes)), random(2, overlap)

    def run(block: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        return frames(block, overlap + hop, hop, past)

    torch.testing.assert_close(chunked(run, x, state, sizes, 0), run(x, state))


@STREAM
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    up=st.integers(1, 5),
    length=st.integers(1, 4),
)
def test_resampling_chunks_is_resampling_the_whole(sizes: list[int], up: int, length: int) -> None:
    down = 7
    x, state = random(2, down * sum(sizes)), random(2, length - 1)
    taps = random(up * length)
    y, last = chunked(
        lambda b, s: resample(b, taps, s, up, down), x, state, [down * n for n in sizes], -1
    )
    torch.testing.assert_close((y, last), resample(x, taps, state, up, down))


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (fir, [(2, 3, 5), (4,), (2, 3, 3)]),
        (fir, [(2, 3, 2), (3, 4), (2, 3, 3)]),
        (fir, [(3, 2), (3, 1), (3, 0)]),
        (lambda *a: causal_conv1d(*a, 3, 2, 2), [(2, 4, 6), (6, 2, 3), (6,), (2, 4, 4)]),
        (lambda x, w, s: causal_conv1d(x, w, None, s), [(2, 1), (3, 2, 3), (2, 2)]),
        (lambda x: decimate(x, 3), [(2, 2, 6)]),
        (lambda x, s: frames(x, 5, 2, s), [(2, 3, 4), (2, 3, 3)]),
        (
            lambda *a: first_sample(*a, torch.tensor([0]))[:2],
            [(2, 3, 4), (3, 2, 2), (2, 3, 2, 2), (2, 3, 1)],
        ),
        (lambda *a: first_sample(*a, torch.tensor([1]))[:2], [(3, 4), (2,), (3, 2), (3, 1)]),
        (lambda x, s: delay(x, 3, s), [(2, 3, 5), (2, 3, 3)]),
        (lambda x, s: delay(x, 7, s), [(3, 5), (3, 7)]),
        (lambda x, t, s: tapped_delay(x, t, ints(1), s), [(2, 2, 5), (3,), (2, 2, 6)]),
        (lambda x, t, s: tapped_delay(x, t, ints(0, 4), s), [(2, 2, 5), (2, 2), (2, 2, 6)]),
        (lambda d, v: between(ints(1, 0, 2, 2, 0).double().expand(d.shape), d, v), [(3, 5), (4,)]),
        (lambda d, v: between(ints(0, 1, 0).double().expand(d.shape), d, v), [(2, 2, 3), (2, 3)]),
        (table, [(2, 3, 5), (4,)]),
        (table, [(2, 3, 5), (3, 2)]),
        (lambda x, t, s: resample(x, t, s, 3, 2), [(2, 2, 6), (9,), (2, 2, 2)]),
        (lambda x, t, s: resample(x, t, s, 2, 5), [(1, 5), (2,), (1, 0)]),
    ],
)
def test_gradients_are_right_through_outputs_and_new_state(
    function: Callable[..., object], inputs: list[tuple[int, ...]]
) -> None:
    values = [random(*shape, grad=True) for shape in inputs]
    assert torch.autograd.gradcheck(function, values)


def test_gradients_themselves_have_gradients() -> None:
    inputs = (random(1, 3, 4, grad=True), random(3, 3, grad=True), random(1, 3, 2, grad=True))
    assert torch.autograd.gradgradcheck(fir, inputs)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("fir", [(2, 3, 5), (3, 4), (2, 3, 3)]),
        ("causal_conv1d", [(4, 6), (6, 2, 3), (6,), (4, 4), 3, 2, 2]),
        ("decimate", [(2, 6), 3]),
        ("frames", [(2, 4), 5, 2, (2, 3)]),
        ("first_sample", [(2, 4), (3,), (2, 3), (2, 1), (1,)]),
        ("delay", [(2, 4), 5, (2, 5)]),
        ("tapped_delay", [(2, 4), (3,), ints(1, 2), (2, 5)]),
        ("table", [(2, 4), (2, 3)]),
        ("between", [(2, 4), (2, 4), (2, 3)]),
        ("resample", [(2, 4), (6,), (2, 1), 3, 2]),
    ],
)
def test_torch_accepts_the_operator_as_registered(name: str, arguments: list[object]) -> None:
    values = [
        random(*one, dtype=torch.float32, grad=True) if isinstance(one, tuple) else one
        for one in arguments
    ]
    if name == "first_sample":
        values[-1] = torch.zeros(1, dtype=torch.int32)
    torch.library.opcheck(getattr(torch.ops.microddsp, name).default, values)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: decimate(torch.zeros(1, 7), 2), SignalError, "multiple of 2 samples, got 7"),
        (lambda: decimate(torch.zeros(1, 0), 2), SignalError, "at least one sample"),
        (lambda: decimate(torch.zeros(1, 4), 0), ParameterError, "factor of at least 1"),
        (lambda: decimate(torch.zeros(4), 2), SignalError, "channels, samples"),
        (lambda: decimate(torch.zeros(1, 4).int(), 2), SignalError, "float32 or float64"),
        (
            lambda: fir(torch.zeros(2, 4), torch.zeros(3, 2), torch.zeros(2, 1)),
            ParameterError,
            r"got \(3, 2\)",
        ),
        (
            lambda: fir(torch.zeros(2, 4), torch.zeros(3), torch.zeros(2, 3)),
            SignalError,
            r"state of shape \(2, 2\)",
        ),
        (
            lambda: fir(torch.zeros(2, 4), torch.zeros(3).double(), torch.zeros(2, 2)),
            SignalError,
            "taps is torch.float64",
        ),
        (lambda: delay(torch.zeros(1, 4), 0, torch.zeros(1, 0)), ParameterError, "at least 1"),
        (lambda: delay(torch.zeros(1, 4), 3, torch.zeros(1, 2)), SignalError, r"\(1, 3\)"),
        (
            lambda: tapped_delay(torch.zeros(1, 4), torch.ones(2), ints(3), torch.zeros(1, 3)),
            SignalError,
            "reach 4 samples back, the state holds 3",
        ),
        (
            lambda: tapped_delay(torch.zeros(1, 4), torch.ones(2), ints(-1), torch.zeros(1, 3)),
            SignalError,
            "taps reach",
        ),
        (
            lambda: tapped_delay(
                torch.zeros(1, 4), torch.ones(2), torch.tensor([1]), torch.zeros(1, 3)
            ),
            SignalError,
            "int32",
        ),
        (lambda: table(torch.zeros(1, 4), torch.ones(1)), SignalError, "at least two"),
        (
            lambda: between(torch.zeros(1, 4), torch.zeros(1, 3), torch.ones(2)),
            SignalError,
            "differ",
        ),
        (lambda: table(torch.zeros(2, 4), torch.ones(3, 2)), SignalError, r"\(2, length\)"),
        (
            lambda: resample(torch.zeros(1, 4), torch.ones(4), torch.zeros(1, 1), 2, 4),
            ParameterError,
            "lowest terms",
        ),
        (
            lambda: resample(torch.zeros(1, 4), torch.ones(5), torch.zeros(1, 1), 2, 1),
            ParameterError,
            "multiple of 2 taps",
        ),
        (
            lambda: resample(torch.zeros(1, 5), torch.ones(4), torch.zeros(1, 1), 2, 3),
            SignalError,
            "multiple of 3",
        ),
        (
            lambda: frames(torch.zeros(1, 4), 2, 4, torch.zeros(1, 0)),
            ParameterError,
            "hop <= length",
        ),
        (
            lambda: causal_conv1d(
                torch.zeros(4, 6), torch.zeros(6, 4, 3), None, torch.zeros(4, 2), groups=2
            ),
            ParameterError,
            "groups=2",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_words(
    wrong: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        wrong()


# ---- the kernels of Relax


def stream(
    name: str,
    blocks: list[np.ndarray],
    constants: Sequence[np.ndarray | int | None],
    states: Sequence[np.ndarray],
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Run dsp.<name> block after block on the host; None in `constants` stands for a state."""
    x = relax.Var("x", relax.TensorType(blocks[0].shape, "float32"))
    past = [
        relax.Var(f"state{i}", relax.TensorType(s.shape, str(s.dtype)))
        for i, s in enumerate(states)
    ]
    waiting = iter(past)
    arguments = [
        one if isinstance(one, int) else next(waiting) if one is None else relax.const(one)
        for one in constants
    ]
    builder = relax.BlockBuilder()
    with builder.function("main", [x, *past]):
        with builder.dataflow():
            result = builder.emit_output(call(f"dsp.{name}", x, *arguments))
        builder.emit_func_output(result)
    mod = relax.transform.LegalizeOps()(builder.get())
    for kernel, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc):
            body = without_helpers(func.body)
            plain = tirx.PrimFunc(func.params, body, func.ret_type, func.attrs)
            mod.update_func(kernel, plain)
    machine = relax.VirtualMachine(tvm.compile(mod, "llvm"), tvm.cpu())
    outputs, current = [], [tvm.runtime.tensor(s) for s in states]
    for block in blocks:
        result = machine["main"](tvm.runtime.tensor(block), *current)
        items = list(result) if past else [result]
        current = items[len(items) - len(past) :]
        outputs.append(np.concatenate([i.numpy() for i in items[: len(items) - len(past)]] or [[]]))
    return outputs, [s.numpy() for s in current]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32")


def compare(
    got: tuple[list[np.ndarray], list[np.ndarray]],
    run: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    blocks: list[np.ndarray],
    state: np.ndarray,
) -> None:
    past = torch.from_numpy(state)
    for block, output in zip(blocks, got[0], strict=True):
        y, past = run(torch.from_numpy(block), past)
        np.testing.assert_allclose(output, y.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got[1][0], past.numpy())


@pytest.mark.parametrize(
    ("samples", "taps"), [(1, (5,)), (3, (2, 9)), (8, (5,)), (6, (2, 4)), (5, (1,))]
)
def test_the_fir_kernel_streams_like_torch(samples: int, taps: tuple[int, ...]) -> None:
    blocks = [normal(2, samples) + i for i in range(4)]
    weights, state = normal(*taps), normal(2, taps[-1] - 1)
    got = stream("fir", blocks, [weights, None], [state])
    compare(got, lambda x, s: fir(x, torch.from_numpy(weights), s), blocks, state)


@pytest.mark.parametrize(
    ("samples", "weight", "stride", "dilation", "groups"),
    [
        (1, (4, 2, 3), 1, 1, 1),
        (4, (4, 2, 3), 1, 2, 1),
        (9, (6, 1, 4), 3, 2, 2),
        (8, (2, 1, 5), 1, 3, 2),
        (5, (3, 2, 1), 1, 1, 1),
        (3, (3, 2, 2), 1, 4, 1),
    ],
)
def test_the_causal_conv1d_kernel_streams_like_torch(
    samples: int, weight: tuple[int, int, int], stride: int, dilation: int, groups: int
) -> None:
    blocks = [normal(2, samples) + i for i in range(4)]
    w, b = normal(*weight), normal(weight[0])
    state = normal(2, (weight[2] - 1) * dilation)
    got = stream("causal_conv1d", blocks, [w, b, None, stride, dilation, groups], [state])

    def run(x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return causal_conv1d(
            x, torch.from_numpy(w), torch.from_numpy(b), s, stride, dilation, groups
        )

    compare(got, run, blocks, state)


@pytest.mark.parametrize(
    ("samples", "length", "hop"), [(1, 4, 1), (2, 5, 2), (6, 5, 3), (6, 3, 3), (3, 3, 3), (2, 9, 1)]
)
def test_the_frames_kernel_streams_like_torch(samples: int, length: int, hop: int) -> None:
    blocks = [normal(2, samples) + i for i in range(4)]
    state = normal(2, length - hop)
    got = stream("frames", blocks, [length, hop, None], [state])
    compare(got, lambda x, s: frames(x, length, hop, s), blocks, state)


def test_the_decimate_kernel_keeps_what_torch_keeps() -> None:
    block = normal(2, 9)
    outputs, _ = stream("decimate", [block], [3], [])
    np.testing.assert_array_equal(outputs[0], block[:, ::3])


@pytest.mark.parametrize("flag", ["int32", "bool", "float32"])
@pytest.mark.parametrize("gain_shape", [(2, 2), (3, 2, 2)])
def test_the_first_sample_kernel_acts_on_the_first_block_only(
    flag: str, gain_shape: tuple[int, ...]
) -> None:
    blocks, gain = [normal(3, 4), normal(3, 4) + 1], normal(*gain_shape)
    states = [normal(3, 2, 2), normal(3, 1), np.zeros(1, flag)]
    _, got = stream("first_sample", blocks, [gain, None, None, None], states)
    current = [torch.from_numpy(s) for s in states]
    for block in blocks:
        current = list(first_sample(torch.from_numpy(block), torch.from_numpy(gain), *current))
    for one, other in zip(got, current, strict=True):
        np.testing.assert_array_equal(one, other.numpy())


@pytest.mark.parametrize(("samples", "length"), [(1, 1), (4, 3), (4, 4), (4, 9)])
def test_the_delay_kernel_streams_like_torch(samples: int, length: int) -> None:
    blocks = [normal(2, samples) + i for i in range(4)]
    state = normal(2, length)
    got = stream("delay", blocks, [length, None], [state])
    compare(got, lambda x, s: delay(x, length, s), blocks, state)


@pytest.mark.parametrize(
    ("samples", "taps", "offsets"),
    [
        (1, (2,), [3]),
        (4, (2,), [0]),
        (4, (4,), [2]),
        (4, (2, 4), [1, 7]),
        (16, (2, 2), [3, 0]),
        (16, (4,), [8, 2]),
    ],
)
def test_the_tapped_delay_kernel_streams_like_torch(
    samples: int, taps: tuple[int, ...], offsets: list[int]
) -> None:
    blocks = [normal(2, samples) + i for i in range(4)]
    weights, state, places = normal(*taps), normal(2, 11), ints(*offsets)
    got = stream("tapped_delay", blocks, [weights, places.numpy(), None], [state])
    compare(got, lambda x, s: tapped_delay(x, torch.from_numpy(weights), places, s), blocks, state)


@pytest.mark.parametrize(
    ("samples", "count", "up", "down"), [(4, 6, 3, 4), (6, 5, 1, 3), (3, 4, 4, 1), (8, 20, 5, 2)]
)
def test_the_resample_kernel_streams_like_torch(
    samples: int, count: int, up: int, down: int
) -> None:
    blocks = [normal(2, samples) + i for i in range(4)]
    taps, state = normal(count), normal(2, count // up - 1)
    got = stream("resample", blocks, [taps, None, up, down], [state])
    compare(got, lambda x, s: resample(x, torch.from_numpy(taps), s, up, down), blocks, state)


@pytest.mark.parametrize("shape", [(5,), (2, 2)])
def test_the_table_kernel_reads_like_torch(shape: tuple[int, ...]) -> None:
    nan, inf = float("nan"), float("inf")
    x = np.array([[-3.0, -0.0, 0.5, 1.0, 3.999, 4.0, 9.0, nan]] * 2, "float32")
    x[1, 1:4] = inf, -inf, 0.25
    values = normal(*shape)
    outputs, _ = stream("table", [x], [values], [])
    expected = table(torch.from_numpy(x), torch.from_numpy(values))
    np.testing.assert_allclose(outputs[0], expected, rtol=1e-6, atol=1e-6)
    assert np.isnan(outputs[0][:, -1]).all()


def test_the_between_kernel_reads_like_torch() -> None:
    nan, inf = float("nan"), float("inf")
    index = np.array([[0.0, 1.0, 2.0, 3.0, 7.0, -2.0, nan, -inf]], "float32")
    share, values = np.abs(normal(1, 8)), normal(4)
    outputs, _ = stream("between", [index], [share, values], [])
    expected = between(*(torch.from_numpy(v) for v in (index, share, values)))
    np.testing.assert_allclose(outputs[0], expected, rtol=1e-6, atol=1e-6)
    assert np.isfinite(outputs[0]).all()
    assert float(expected[0, 4]) == pytest.approx(
        values[2] + share[0, 4] * (values[3] - values[2]), rel=1e-5
    )
