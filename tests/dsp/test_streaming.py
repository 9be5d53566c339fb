"""Where state lives: streams, steps, and modules of the user's own."""

import threading

import pytest
import torch
from torch import Tensor

import microddsp
from microddsp import dsp
from microddsp.errors import MicroddspError

FS = 1000.0


class RunningSum(torch.nn.Module):
    """A user's module that changes its buffer in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(2, 1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        y = self.total + x.cumsum(-1)
        self.total.copy_(y[..., -1:].detach())
        return y


class Replacing(RunningSum):
    """The same, with a new tensor instead of a copy."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.total + x.cumsum(-1)
        self.total = y[..., -1:]
        return y


class AwkwardName(torch.nn.Module):
    """A user's buffer that is called as ours are."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("state_z", torch.zeros(2, 1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        y = self.state_z + x.cumsum(-1)
        self.state_z.copy_(y[..., -1:].detach())
        return y


class TwoBands(torch.nn.Module):
    """Nested blocks, a container, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.front = torch.nn.Sequential(dsp.DCBlocker(2.0, sample_rate_hz=FS), torch.nn.Tanh())
        self.bands = torch.nn.ModuleDict(
            {
                "low": dsp.Lowpass(50.0, 2, sample_rate_hz=FS),
                "high": dsp.Highpass(50.0, 2, sample_rate_hz=FS),
            }
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.front(x)
        return {name: band(y) for name, band in self.bands.items()}


def noise(samples: int = 60, *batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(*batch, 2, samples, generator=generator, dtype=torch.float64)


def test_nested_blocks_stream_as_one() -> None:
    module, x = TwoBands(), noise()
    whole = module(x)
    with torch.no_grad(), microddsp.streaming(module):
        chunks = [module(chunk) for chunk in x.split([7, 33, 20], -1)]
    for name in whole:
        streamed = torch.cat([chunk[name] for chunk in chunks], -1)
        torch.testing.assert_close(streamed, whole[name], rtol=0, atol=1e-12)
    assert not list(module.buffers())


def test_only_the_module_that_streams_keeps_state() -> None:
    one, other = dsp.DCBlocker(2.0, sample_rate_hz=FS), dsp.DCBlocker(2.0, sample_rate_hz=FS)
    with microddsp.streaming(one):
        one(noise())
        other(noise())
        assert list(one.buffers())
        assert not list(other.buffers())
        assert dsp.is_streaming(one) and not dsp.is_streaming(other)


def test_another_thread_is_still_offline() -> None:
    block = dsp.DCBlocker(2.0, sample_rate_hz=FS)
    seen: list[bool] = []
    with microddsp.streaming(block):
        thread = threading.Thread(target=lambda: seen.append(dsp.is_streaming(block)))
        thread.start()
        thread.join()
    assert seen == [False]


def test_an_error_ends_the_stream() -> None:
    block = dsp.DCBlocker(2.0, sample_rate_hz=FS)
    with pytest.raises(KeyError), microddsp.streaming(block):
        block(noise())
        raise KeyError
    assert not list(block.buffers())
    assert not dsp.is_streaming(block)


def test_streams_nest() -> None:
    module, x = torch.nn.Sequential(dsp.Lowpass(50.0, sample_rate_hz=FS)), noise()
    with torch.no_grad(), microddsp.streaming(module):
        first = module(x[..., :30])
        with microddsp.streaming(module[0]):
            second = module(x[..., 30:])
        assert dsp.is_streaming(module[0])
        assert list(module.buffers())
    torch.testing.assert_close(torch.cat([first, second], -1), module(x), rtol=0, atol=1e-12)


def test_a_signal_of_another_shape_needs_a_reset_stream() -> None:
    block = dsp.Lowpass(50.0, sample_rate_hz=FS)
    with microddsp.streaming(block):
        block(noise())
        with pytest.raises(MicroddspError):
            block(noise()[:1])


@pytest.mark.parametrize("user", [RunningSum, Replacing, AwkwardName])
def test_a_step_carries_the_users_own_buffers(user: type[torch.nn.Module]) -> None:
    module = torch.nn.Sequential(dsp.Lowpass(50.0, sample_rate_hz=FS), user())
    x, state, outputs = noise(), None, []
    for chunk in x.split(20, -1):
        y, state = microddsp.step(module, chunk, state)
        outputs.append(y)
    streamed = torch.cat(outputs, -1)
    expected = module[0](x).cumsum(-1)
    torch.testing.assert_close(streamed, expected, rtol=0, atol=1e-12)
    for buffer in module.buffers():
        assert torch.equal(buffer, torch.zeros_like(buffer))


@pytest.mark.parametrize("user", [RunningSum, AwkwardName])
def test_reset_brings_back_what_the_users_buffers_were_at_the_start(
    user: type[torch.nn.Module],
) -> None:
    module = torch.nn.Sequential(user(), dsp.Lowpass(50.0, sample_rate_hz=FS))
    for buffer in module.buffers():
        buffer.fill_(3.0)
    with torch.no_grad(), microddsp.streaming(module):
        first = module(noise())
        assert not torch.equal(module(noise()), first)
        microddsp.reset(module)
        assert torch.equal(module(noise()), first)


def test_a_step_is_pure() -> None:
    module, x = torch.nn.Sequential(dsp.Lowpass(50.0, sample_rate_hz=FS), RunningSum()), noise()
    _, state = microddsp.step(module, x)
    before = {key: value.clone() for key, value in state.items()}
    first, _ = microddsp.step(module, x, state)
    second, _ = microddsp.step(module, x, state)
    assert torch.equal(first, second)
    assert all(torch.equal(state[key], before[key]) for key in before)


def test_the_gradient_of_steps_is_that_of_the_whole() -> None:
    module, x = dsp.Bandpass(50.0, 200.0, 2, sample_rate_hz=FS).double(), noise()
    parameters = list(module.parameters())
    whole = torch.autograd.grad(module(x).square().sum(), parameters)
    state, loss = None, torch.zeros((), dtype=torch.float64)
    for chunk in x.split(20, -1):
        y, state = microddsp.step(module, chunk, state)
        loss = loss + y.square().sum()
    torch.testing.assert_close(torch.autograd.grad(loss, parameters), whole)


def test_a_cut_state_truncates_the_gradient() -> None:
    module, x = dsp.OnePole(50.0, sample_rate_hz=FS).double(), noise().requires_grad_()
    _, state = microddsp.step(module, x[..., :30])
    y, _ = microddsp.step(module, x[..., 30:], {k: v.detach() for k, v in state.items()})
    y.sum().backward()
    assert x.grad is not None
    assert float(x.grad[..., :30].abs().max()) == 0.0
    assert float(x.grad[..., 30:].abs().max()) > 0.0


def test_a_step_answers_with_what_the_module_returns() -> None:
    y, state = microddsp.step(TwoBands(), noise())
    assert set(y) == {"low", "high"}
    assert {key.rpartition(".")[0] for key in state} == {"front.0", "bands.low", "bands.high"}


def test_a_state_of_another_pipeline_is_refused() -> None:
    _, state = microddsp.step(TwoBands(), noise())
    with pytest.raises(MicroddspError, match="bands.high"):
        microddsp.step(dsp.OnePole(5.0, sample_rate_hz=FS), noise(), state)


def test_a_block_used_twice_in_a_chunk_is_refused() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.smooth = dsp.OnePole(5.0, sample_rate_hz=FS)

        def forward(self, x: Tensor) -> Tensor:
            return self.smooth(self.smooth(x))

    module = Twice()
    module(noise())  # two runs from the start: well defined
    with pytest.raises(MicroddspError, match="twice"):
        microddsp.step(module, noise())
    with microddsp.streaming(module), pytest.raises(MicroddspError, match="twice"):
        module(noise())


def test_a_stream_may_be_run_block_by_block() -> None:
    module, x = torch.nn.Sequential(dsp.Lowpass(50.0, sample_rate_hz=FS), dsp.Gain(2.0)), noise()
    with torch.no_grad(), microddsp.streaming(module):
        streamed = [module[1](module[0](chunk)) for chunk in x.split(20, -1)]
    torch.testing.assert_close(torch.cat(streamed, -1), module(x), rtol=0, atol=1e-12)
