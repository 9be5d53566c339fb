"""Recursions written as Python steps: formulas by compiled kernels, the rest by torch."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Callable

import pytest
import scipy.signal
import torch
from torch import Tensor

import microddsp
from microddsp import dsp, relax_ops
from microddsp.errors import CompileError, ParameterError, SignalError
from microddsp.relax_ops.recurrence import parse, to_text


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def by_hand(step: Callable[..., tuple[Tensor, Tensor]], x: Tensor, state: Tensor) -> Tensor:
    """The recursion as the definition has it, for one signal."""
    outputs = []
    for sample in x.unbind(-1):
        y, state = step(sample, state)
        outputs.append(y)
    return torch.stack(outputs, -1)


def is_formula(block: dsp.Recurrence, channels: int = 1) -> bool:
    return block._program(torch.zeros(channels, 1)) is not None


def leaky(x: Tensor, y: Tensor, leak: Tensor) -> Tensor:
    return x + leak * y


def test_one_tensor_is_output_and_state() -> None:
    x = noise(3, 2, 50)
    y = dsp.Recurrence(leaky, parameters={"leak": 0.75})(x)
    expected = scipy.signal.lfilter([1.0], [1.0, -0.75], x.numpy())
    torch.testing.assert_close(y, torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_parameters_are_computed_with_once() -> None:
    block = dsp.Recurrence(
        lambda x, y, tau: x + torch.exp(-1 / (tau * 100.0)) * y, parameters={"tau": 0.1}
    )
    assert block._program(torch.zeros(1, 1)) == "1 1; mul p0 z0; add x0 v0 | v1 | v1"
    block(torch.ones(1, 20)).sum().backward()
    assert float(block.tau.grad) > 0  # a slower leak holds more
    assert repr(block) == "Recurrence(<lambda>, tau=0.1)"


def direct_form(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    y = 0.2 * x + z[0]
    return y, torch.cat([0.4 * x + z[1] + 1.1 * y, 0.2 * x - 0.5 * y])


def test_a_state_of_several_numbers() -> None:
    block = dsp.Recurrence(direct_form, torch.zeros(2))
    assert is_formula(block)
    x = noise(2, 1, 60)
    expected = scipy.signal.lfilter([0.2, 0.4, 0.2], [1.0, -1.1, 0.5], x.numpy())
    torch.testing.assert_close(block(x), torch.from_numpy(expected), rtol=0, atol=1e-12)


def schmitt(x: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
    on = torch.where(x > 0.5, 1.0, torch.where(x < -0.5, 0.0, on))
    return on, on


def test_a_schmitt_trigger() -> None:
    x = torch.tensor([[0.0, 0.6, 0.2, -0.4, -0.6, 0.4, 0.5, 0.51]])
    block = dsp.Recurrence(schmitt)
    assert is_formula(block, 2)
    assert block(x).tolist() == [[0, 1, 1, 1, 0, 0, 0, 1]]
    assert dsp.Recurrence(schmitt, 1.0)(x)[0, 0] == 1


def accumulator(x: Tensor, phase: Tensor, increment: Tensor) -> tuple[Tensor, Tensor]:
    phase = (phase + increment + x) % 1.0
    return torch.sin(2 * torch.pi * phase), phase


def test_a_phase_accumulator() -> None:
    block = dsp.Recurrence(accumulator, parameters={"increment": 0.0625}).double()
    assert is_formula(block, 2)
    n = torch.arange(1, 101, dtype=torch.float64)
    expected = torch.sin(2 * torch.pi * 0.0625 * n)
    torch.testing.assert_close(block(torch.zeros(1, 100).double())[0], expected)


def string(x: Tensor, line: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    y = x + loss * 0.5 * (line[-1] + line[-2])
    return y, torch.cat([y, line[:-1]])


def test_a_plucked_string() -> None:
    block = dsp.Recurrence(string, torch.zeros(40), parameters={"loss": 0.98})
    assert not is_formula(block)
    x = torch.zeros(1, 400).double()
    x[:, 0] = 1
    # y[n] = x[n] + loss / 2 (y[n - 40] + y[n - 39])
    loss = float(block.loss.detach())
    denominator = [1.0] + [0.0] * 38 + [-0.5 * loss, -0.5 * loss]
    expected = scipy.signal.lfilter([1.0], denominator, x.numpy())
    torch.testing.assert_close(block(x), torch.from_numpy(expected), rtol=0, atol=1e-12)


class Cell(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.cell = torch.nn.GRUCell(2, 5)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cell(x, h)
        return h, h


def test_a_gru_cell_and_its_gradients() -> None:
    block = dsp.Recurrence(Cell(), torch.zeros(5)).double()
    gru = torch.nn.GRU(2, 5, batch_first=True).double()
    weights = block.step.cell.state_dict()
    gru.load_state_dict({f"{name}_l0": value for name, value in weights.items()})
    x = noise(3, 2, 30)
    expected = gru(x.mT)[0].mT
    y = block(x)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for name, value in block.step.cell.named_parameters():
        torch.testing.assert_close(value.grad, getattr(gru, f"{name}_l0").grad)


# Every rule of a formula: (x, z) -> a number; near no kink at the values of the test.
RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add, sub, mul": lambda x, z: 2 * x + z * 0.5 - (1 - z) + x.sub(z, alpha=0.5),
    "div": lambda x, z: 1 / (2 + z * z) + x / 3,
    "fmod": lambda x, z: torch.fmod(3 * x + z, 0.7),
    "remainder": lambda x, z: (3 * x - z) % 0.7 + (x * 5 + z) % 1.0,
    "maximum": lambda x, z: torch.maximum(x, z) + torch.minimum(x, 0.3 * z),
    "clamp": lambda x, z: (x + z).clamp(-0.4, 0.6) + x.clamp(min=0.1) + z.clamp(max=0.2),
    "relu": lambda x, z: torch.relu(x - 0.3 * z),
    "abs": lambda x, z: torch.abs(x - z) + -x,
    "roots": lambda x, z: torch.sqrt(9 + x) + (9 + z) ** 0.5,
    "exp, log": lambda x, z: torch.exp(-x * x) + torch.log(2 + z * z),
    "waves": lambda x, z: torch.sin(x) + torch.cos(3 * z) + torch.tanh(x + z),
    "floor": lambda x, z: torch.floor(3 * x) * 0.1 + z * 0.2,
    "sigmoid": lambda x, z: torch.sigmoid(4 * x - z),
    "powers": lambda x, z: x**2 - z**3 * 0.1 + torch.square(x) * 0.2,
    "choice": lambda x, z: torch.where(x > z, x, -z) + torch.where(x <= 0.1, 1.0, x),
    "logic": lambda x, z: torch.where(((x > 0) & ~(z < 0)) | (x >= 1), x, 0.5 * z),
    "truths": lambda x, z: (x > 0).to(x.dtype) + (z != 0) * 0.5 + (x == z) * 1.0 + 0.1 * x,
}


@pytest.mark.parametrize("rule", RULES)
def test_a_formula_is_what_torch_computes(rule: str) -> None:
    def step(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        y = RULES[rule](x, z)
        return y, 0.3 * y + 0.1 * z

    block = dsp.Recurrence(step, 0.05)
    assert is_formula(block, 2)
    x = noise(2, 40).requires_grad_()
    plain = by_hand(step, x, torch.full((2,), 0.05, dtype=torch.float64))
    torch.testing.assert_close(block(x), plain, rtol=0, atol=1e-7)  # 0.05 is float32
    (ours,) = torch.autograd.grad(block(x).sin().sum(), x)
    (theirs,) = torch.autograd.grad(plain.sin().sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_not_a_number_is_not_hidden() -> None:
    def step(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return torch.maximum(x, z) + torch.minimum(x, z) + torch.relu(x).clamp(0, 1), 0 * z

    x = torch.tensor([[1.0, float("nan"), 2.0]])
    assert dsp.Recurrence(step)(x).isnan().tolist() == [[False, True, False]]


def test_large_sums_do_not_spoil_a_gradient() -> None:
    x = torch.full((1, 3), -200.0, requires_grad=True)
    dsp.Recurrence(lambda x, z: torch.sigmoid(x) + 0 * z)(x).sum().backward()
    assert x.grad.tolist() == [[0, 0, 0]]


def test_a_start_that_learns() -> None:
    start = torch.nn.Parameter(torch.tensor(2.0))
    block = dsp.Recurrence(leaky, start, parameters={"leak": 0.5})
    block(torch.zeros(1, 4)).sum().backward()
    assert float(start.grad) == pytest.approx(0.9375)
    assert "start_state" in block.state_dict()


def test_writing_into_the_state_stays_inside() -> None:
    def step(x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        state["sum"] += x
        return state["sum"] * 1.0, state

    block = dsp.Recurrence(step, {"sum": 0.0})
    for _ in range(2):
        assert block(torch.ones(1, 3)).tolist() == [[1, 2, 3]]


def test_copies_and_files_hold_no_graphs() -> None:
    block = dsp.Recurrence(leaky, parameters={"leak": 0.5})
    x = noise(1, 8)
    y = block(x)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert other._traced.graphs == {}
        assert torch.equal(other(x), y)


class Thinned(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.dropout(x), 0.5 * z


def test_a_step_knows_whether_it_is_trained() -> None:
    block, x = dsp.Recurrence(Thinned()), torch.ones(1, 64)
    assert 0 < int((block(x) == 0).sum()) < 64
    assert torch.equal(block.eval()(x), x)
    assert not torch.equal(block.train()(x), x)


def rows(x: Tensor) -> Tensor:
    return x[(None,) * (x.dim() == 2)].flatten(0, -3)


@pytest.mark.parametrize("batch", [(), (0,), (1,), (3,), (2, 0), (1, 1), (2, 3)])
@pytest.mark.parametrize("samples", [0, 5])
def test_batches_of_any_size(batch: tuple[int, ...], samples: int) -> None:
    block = dsp.Recurrence(string, torch.zeros(20), parameters={"loss": 0.9}).double()
    x = noise(*batch, 1, samples)
    y, state = microddsp.step(block, x)
    assert y.shape == x.shape
    (line,) = state.values()
    assert line.shape == (*batch, 20)
    for row, of in zip(rows(y), rows(x), strict=True):
        torch.testing.assert_close(row, block(of))


def test_truncated_backpropagation() -> None:
    block = dsp.Recurrence(string, torch.zeros(12), parameters={"loss": 0.9}).double()
    x = noise(2, 1, 30)
    _, state = microddsp.step(block, x[..., :20])
    y, _ = microddsp.step(block, x[..., 20:], {k: v.detach() for k, v in state.items()})
    torch.testing.assert_close(y, block(x)[..., 20:])
    y.sum().backward()
    assert block.loss.grad is not None


WEIGHT = torch.nn.Parameter(torch.tensor(0.5))


@pytest.mark.parametrize(
    ("step", "state", "says"),
    [
        (lambda x, z: (x if x > 0 else z, z), 0.0, "chooses by the value"),
        (lambda x, z: x * float(z), 0.0, "chooses by the value"),
        (lambda x, z: (x * WEIGHT, z), 0.0, "not its argument"),
        (lambda x, z: (x, z[None]), 0.0, r"state 'state' goes in .* comes out as .*\(1, 2\)"),
        (lambda x, z: (x, z > 0), 0.0, "comes out as torch.bool"),
        (lambda x, z: (x, [0.0, 0.0]), 0.0, "comes out as list"),
        (lambda x, z: (x.sum(), z), 0.0, r"one sample \(channels,\)"),
        (lambda x, z: ([x], z), 0.0, r"one sample \(channels,\), not list"),
        (lambda x, z: (x, {"b": z["a"]}), {"a": 0.0}, r"with the states \['a'\]"),
        (lambda x, z: (x @ x.new_zeros(3, 3), z), 0.0, "the step fails"),
    ],
)
def test_a_step_that_cannot_be(step: Callable[..., object], state: object, says: str) -> None:
    with pytest.raises(ParameterError, match=says) as caught:
        dsp.Recurrence(step, state)(torch.zeros(2, 4))
    assert "test_recurrence.py" in str(caught.value) or caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"step": 3}, "must be a function"),
        ({"state": {}}, "needs a state"),
        ({"state": "zero"}, "must be a number"),
        ({"state": float("nan")}, "not finite"),
        ({"parameters": {"forward": 1.0}}, "cannot name a parameter"),
        ({"settle_s": 1.0}, "needs sample_rate_hz"),
        ({"settle_s": -1.0, "sample_rate_hz": 8.0}, "must not be negative"),
        ({"sample_rate_hz": 0.0}, "must be positive"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        dsp.Recurrence(**{"step": leaky, **arguments})


def cross(x: Tensor, z: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel hears the other's past."""
    left, right = x[0] + gain * z[1] * x[1], x[1] - gain * torch.tanh(z[0])
    return torch.stack([left, right]), torch.stack([left, 0.5 * right])


def middle(x: Tensor, z: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """One channel of three; a state of each and one of all."""
    low = 0.9 * z["low"] + 0.1 * x
    y = low.sum(0, keepdim=True) - z["last"]
    return y, {"low": low, "last": y * x[2]}


def spread(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Three channels of one."""
    z = 0.5 * z + x
    return torch.cat([x, z, x - z]), z


MEETING: dict[str, tuple[Callable[[], dsp.Recurrence], int]] = {
    "cross": (lambda: dsp.Recurrence(cross, torch.zeros(2), parameters={"gain": 0.4}), 2),
    "a start for each": (lambda: dsp.Recurrence(cross, 0.3, parameters={"gain": 0.4}), 2),
    "middle": (lambda: dsp.Recurrence(middle, {"low": 0.2, "last": torch.tensor([-0.1])}), 3),
    "spread": (lambda: dsp.Recurrence(spread, torch.nn.Parameter(torch.ones(1))), 1),
}


@pytest.mark.parametrize("name", MEETING)
def test_channels_may_meet_in_a_formula(name: str) -> None:
    make, channels = MEETING[name]
    block, plain = make().double(), make().double()
    assert is_formula(block, channels)
    x = noise(3, channels, 40).requires_grad_()
    plain._program = lambda x: None  # as tensors, through a scan in torch
    assert plain.initial_state(x).keys() == set(plain.keys)
    y, expected = block(x), plain(x)
    torch.testing.assert_close(y, expected)
    assert y.grad_fn is not None and "_Recursion" in y.grad_fn.name()
    weights = torch.cos(torch.arange(y.numel()).double()).reshape(y.shape)
    for one, other in zip(
        torch.autograd.grad((y * weights).sum(), [x, *block.parameters()]),
        torch.autograd.grad((expected * weights).sum(), [x, *plain.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    with torch.no_grad(), microddsp.streaming(block):
        for _ in range(2):
            streamed = torch.cat([block(part) for part in x.split([1, 30, 9], -1)], -1)
            torch.testing.assert_close(streamed, y, rtol=0, atol=1e-12)
            microddsp.reset(block)


def test_all_derivatives_of_a_formula_in_which_channels_meet() -> None:
    text = MEETING["cross"][0]()._program(torch.zeros(2, 1))
    assert text is not None

    def run(x: Tensor, gain: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return relax_ops.recurrence(x, gain, state, text)

    values = [v.clone().requires_grad_() for v in (noise(2, 2, 6), noise(1), noise(2, 1, 2))]
    assert torch.autograd.gradcheck(run, values, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, values)
    with pytest.raises(SignalError, match="takes 2 channels, got 3"):
        run(noise(3, 6), noise(1), noise(1, 2))


def test_many_channels_that_meet_are_no_formula() -> None:
    def mean(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        z = 0.5 * z + x.sum(0, keepdim=True)
        return z, z

    block = dsp.Recurrence(mean, torch.zeros(1))
    assert is_formula(block, 8)
    assert not is_formula(block, 9)
    x = noise(9, 30)
    expected = scipy.signal.lfilter([1.0], [1.0, -0.5], x.sum(0, keepdim=True).numpy())
    torch.testing.assert_close(block(x), torch.from_numpy(expected))


@pytest.mark.parametrize("channels", [1, 2])
def test_a_step_survives_its_text(channels: int) -> None:
    block = (
        dsp.Recurrence(accumulator, parameters={"increment": 0.1})
        if channels == 1
        else MEETING["cross"][0]()
    )
    text = block._program(torch.zeros(channels, 1))
    assert text is not None and to_text(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 1 | x0 | z0 | z0",
        "1 1; open x0 | v0 | z0",
        "1 1; mul x0 | v0 | z0",
        "1 0 | x0 |",
        "1 1 1 | x0 | z0",
    ],
)
def test_a_text_that_is_no_step(text: str) -> None:
    with pytest.raises(CompileError, match="no recursion"):
        parse(text)


def test_settling_is_told() -> None:
    block = dsp.Recurrence(leaky, parameters={"leak": 0.5}, settle_s=0.5, sample_rate_hz=100.0)
    assert block.settle_samples == 50
    assert operator.attrgetter("sample_rate_hz")(block) == 100.0
