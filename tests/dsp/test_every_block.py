"""What holds for every block: chunks, steps, gradients, nothing left behind."""

from collections.abc import Callable
from typing import Any

import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import microddsp
from microddsp import dsp
from microddsp.errors import ParameterError

FS = 1000.0
ELLIPTIC = scipy.signal.ellip(4, 1, 40, 0.2, output="sos")


def two_states(x: Tensor, state: dict[str, Tensor], g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    a = torch.tanh(x + g * state["b"])
    return a * g, {"a": state["b"] - 0.5 * state["a"], "b": a}


def string(x: Tensor, state: dict[str, Tensor], loss: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    line = state["line"]
    y = x + loss * 0.5 * (line[:, -1] + line[:, -2])
    return y, {"line": torch.cat([y[:, None], line[:, :-1]], -1)}


class Cell(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = torch.nn.GRUCell(2, 3)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cell(x, h)
        return h, h


def seeded(make: Callable[[], dsp.Block]) -> dsp.Block:
    torch.manual_seed(0)
    return make()


BLOCKS: dict[str, Callable[[], dsp.Block]] = {
    "gain": lambda: dsp.Gain([0.5, -2.0]),
    "offset": lambda: dsp.Offset([0.5, -2.0]),
    "mix": lambda: dsp.Mix([[0.5, -0.25], [1.0, 2.0], [0.0, 0.7]]),
    "delay": lambda: dsp.Delay(5),
    "delay in seconds": lambda: dsp.Delay(delay_s=0.011, sample_rate_hz=FS),
    "learnable delay": lambda: dsp.LearnableDelay([0.0032, 0.0057], max_s=0.008, sample_rate_hz=FS),
    "smooth learnable delay": lambda: dsp.LearnableDelay(
        0.0036, max_s=0.008, sample_rate_hz=FS, interpolation="lagrange"
    ),
    "oscillator": lambda: dsp.Oscillator([123.0, 310.0], phase=0.2, sample_rate_hz=FS),
    "noise": lambda: dsp.Noise([0.1, 0.5], seed=3),
    "curve": lambda: dsp.Table([0.0, 1.0, 0.5, -2.0], low=-1.03, high=3.02),
    "curves": lambda: dsp.Table([[0.0, 1.0, 0.5], [1.0, 0.0, 3.0]]),
    "recording": lambda: dsp.Waveform([0.5, 1.0, -1.0, 0.25, 0.75], speed=0.7),
    "loops": lambda: dsp.Waveform(
        [[0.5, 1.0, -1.0], [1.0, 0.0, 3.0]], speed=[0.61, 1.3], loop=True
    ),
    "onset strength": lambda: dsp.OnsetStrength([3.0, 8.0], lag_s=0.002, sample_rate_hz=FS),
    "peaks": lambda: dsp.PeakPicker(
        0.5, look_back_s=0.003, lookahead_s=0.002, mean_s=0.1, refractory_s=0.02, sample_rate_hz=FS
    ),
    "onsets": lambda: dsp.OnsetDetector(
        dsp.OnsetStrength(lag_s=0.001, sample_rate_hz=FS),
        dsp.PeakPicker(0.2, look_back_s=0.003, refractory_s=0.02, sample_rate_hz=FS),
    ),
    "rms": lambda: dsp.RMS([0.005, 0.02], sample_rate_hz=FS),
    "rms of a window": lambda: dsp.RMS(window_s=0.007, sample_rate_hz=FS),
    "general recursion": lambda: dsp.IIR([0.5, 0.2, -0.1, 0.3], [1, -0.9, 0.5], sample_rate_hz=FS),
    "higher rate": lambda: dsp.Resample(3, 1, half_width=2),
    "other rate": lambda: dsp.Resample(3, 4, half_width=2),
    "lower rate": lambda: dsp.Resample(1, 4, half_width=2),
    "choice": lambda: dsp.Select(
        [dsp.Gain(2.0), dsp.Lowpass(120.0, 2, sample_rate_hz=FS), dsp.Delay(2)]
    ),
    "biquad lowpass": lambda: dsp.Biquad.lowpass(100.0, 0.9, sample_rate_hz=FS),
    "biquad highpass per channel": lambda: dsp.Biquad.highpass([50.0, 90.0], sample_rate_hz=FS),
    "biquad bandpass": lambda: dsp.Biquad.bandpass(low_hz=50.0, high_hz=90.0, sample_rate_hz=FS),
    "biquad notch": lambda: dsp.Biquad.notch(50.0, 5.0, sample_rate_hz=FS),
    "biquad from the first sample": lambda: dsp.Biquad.lowpass(
        100.0, sample_rate_hz=FS, initial="first_sample"
    ),
    "biquad allpass": lambda: dsp.Biquad.allpass(80.0, 0.8, sample_rate_hz=FS),
    "biquad peaking per channel": lambda: dsp.Biquad.peaking(
        [50.0, 90.0], 2.0, gain_db=[6.0, -9.0], sample_rate_hz=FS
    ),
    "biquad lowshelf": lambda: dsp.Biquad.lowshelf(60.0, gain_db=[4.0, 0.0], sample_rate_hz=FS),
    "biquad highshelf": lambda: dsp.Biquad.highshelf(90.0, 0.9, gain_db=-5.0, sample_rate_hz=FS),
    "svf peaking": lambda: dsp.SVF.peaking(50.0, 2.0, gain_db=6.0, sample_rate_hz=FS),
    "svf lowshelf": lambda: dsp.SVF.lowshelf(1.0, gain_db=9.0, sample_rate_hz=FS),
    "svf highshelf": lambda: dsp.SVF.highshelf(
        90.0, gain_db=[2.0, -3.0], sample_rate_hz=FS, initial="first_sample"
    ),
    "svf lowpass": lambda: dsp.SVF.lowpass(60.0, 0.8, sample_rate_hz=FS),
    "svf notch from the first sample": lambda: dsp.SVF.notch(
        [60.0, 70.0], 0.8, sample_rate_hz=FS, initial="first_sample"
    ),
    "lowpass": lambda: dsp.Lowpass(120.0, 3, sample_rate_hz=FS),
    "lowpass, low": lambda: dsp.Lowpass(1.5, 2, sample_rate_hz=FS),
    "highpass per channel": lambda: dsp.Highpass([30.0, 60.0], 4, sample_rate_hz=FS),
    "highpass from the first sample": lambda: dsp.Highpass(
        30.0, 2, sample_rate_hz=FS, initial="first_sample"
    ),
    "bandpass": lambda: dsp.Bandpass(40.0, 160.0, 3, sample_rate_hz=FS),
    "bandpass per channel from the first sample": lambda: dsp.Bandpass(
        [40.0, 50.0], 160.0, 2, sample_rate_hz=FS, initial="first_sample"
    ),
    "bandstop": lambda: dsp.Bandstop(40.0, 160.0, 2, sample_rate_hz=FS),
    "sections": lambda: dsp.SOS(ELLIPTIC, sample_rate_hz=FS),
    "sections from the first sample": lambda: dsp.SOS(
        ELLIPTIC, sample_rate_hz=FS, initial="first_sample"
    ),
    "one pole": lambda: dsp.OnePole(40.0, sample_rate_hz=FS),
    "one pole from the first sample": lambda: dsp.OnePole(
        time_constant_s=[0.01, 0.02], sample_rate_hz=FS, initial="first_sample"
    ),
    "dc blocker": lambda: dsp.DCBlocker(5.0, sample_rate_hz=FS),
    "fir": lambda: dsp.FIR([0.5, -0.25, 0.125, 1.0]),
    "fir per channel": lambda: dsp.FIR([[0.5, -0.25], [1.0, 2.0]]),
    "sinc bands": lambda: dsp.SincFilterbank(
        [40.0, 90.0, 200.0], [90.0, 200.0, 450.0], 7, sample_rate_hz=FS
    ),
    "sinc bands with a hop": lambda: dsp.SincFilterbank.mel(3, 8, sample_rate_hz=FS, hop=4),
    "gammatone bands": lambda: dsp.Gammatone.erb(3, 60.0, 300.0, sample_rate_hz=FS),
    "gammatone bands, svf": lambda: dsp.Gammatone(
        [60.0, 90.0], bandwidth=[0.7, 1.5], sample_rate_hz=FS, form="svf"
    ),
    "heights of bands": lambda: dsp.Filterbank.mel(
        4, 20.0, 400.0, sample_rate_hz=FS, hop=4, release_s=0.03
    ),
    "heights of gammatone bands": lambda: dsp.Filterbank.gammatone(
        2, 50.0, 400.0, sample_rate_hz=FS, hop=2
    ),
    "convolution": lambda: dsp.CausalConv1d(2, 4, 3, stride=4, dilation=2, groups=2),
    "envelope": lambda: dsp.Envelope(0.003, [0.02, 0.03], sample_rate_hz=FS),
    "power envelope": lambda: dsp.Envelope(0.003, 0.02, sample_rate_hz=FS, rectify="square"),
    "recurrence": lambda: dsp.Recurrence(
        lambda x, y, leak: x + torch.exp(-leak) * y, parameters={"leak": [0.1, 0.4]}
    ),
    "recurrence of two states": lambda: dsp.Recurrence(
        two_states, {"a": 0.2, "b": torch.nn.Parameter(torch.tensor(-0.1))}, parameters={"g": 0.6}
    ),
    "recurrence in which channels meet": lambda: dsp.Recurrence(
        lambda x, z, g: x + g * torch.tanh(z.flip(0)), torch.zeros(2), parameters={"g": 0.6}
    ),
    "delay in a loop": lambda: dsp.Recurrence(
        string, {"line": torch.zeros(2, 11)}, parameters={"loss": torch.tensor(0.97)}
    ),
    "matrix in a loop": lambda: dsp.Recurrence(Cell(), torch.zeros(3)),
    "gru": lambda: seeded(lambda: dsp.GRU(2, 3, num_layers=2)),
    "decimation": lambda: dsp.Decimate(4),
    "frames": lambda: dsp.Frames(12, 4),
    "stft": lambda: dsp.STFT(12, 4, window_length=9),
    "spectrogram": lambda: dsp.Spectrogram(12, 4, window="hamming"),
    "magnitudes": lambda: dsp.Spectrogram(11, 4, power=1),
}
# Chunks are multiples of every stride, factor and hop above.
QUANTUM = 4

NOT_LEARNING = (
    "decimation",
    "frames",
    "stft",
    "spectrogram",
    "magnitudes",
    "delay",
    "delay in seconds",
)
ONE_CHANNEL = (
    "sinc bands",
    "sinc bands with a hop",
    "gammatone bands",
    "gammatone bands, svf",
    "heights of bands",
    "heights of gammatone bands",
)
# Their gradient is that of a surrogate, see test_onsets.py.
DECIDING = ("peaks", "onsets")
WITHOUT_STATE = ("decimation", "gain", "offset", "mix", "curve", "curves")

every_block = pytest.mark.parametrize("name", BLOCKS)
every_learning_block = pytest.mark.parametrize(
    "name", [name for name in BLOCKS if name not in NOT_LEARNING]
)
every_block_with_gradients = pytest.mark.parametrize(
    "name", [name for name in BLOCKS if name not in NOT_LEARNING + DECIDING]
)
every_state_with_gradients = pytest.mark.parametrize(
    "name", [name for name in BLOCKS if name not in WITHOUT_STATE + DECIDING]
)
every_block_with_state = pytest.mark.parametrize(
    "name", [name for name in BLOCKS if name not in WITHOUT_STATE]
)


def signal(samples: int, *batch: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Two channels of noise on an offset."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(*batch, 2, samples, generator=generator, dtype=torch.float64)
    return (noise + 1.5).to(dtype)


def signal_for(name: str, samples: int, *batch: int, **options: Any) -> Tensor:
    """A signal with the channels that a block takes."""
    return signal(samples, *batch, **options)[..., : 1 if name in ONE_CHANNEL else 2, :]


def joined(name: str, outputs: list[Tensor]) -> Tensor:
    """Outputs of successive chunks as one: along frames, else along samples."""
    return torch.cat(outputs, {"frames": -3, "stft": -4}.get(name, -1))


def state_names(module: torch.nn.Module) -> list[str]:
    return [name for name, _ in module.named_buffers()]


@every_block
@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_any_chunking_equals_the_whole(name: str, sizes: list[int], seed: int) -> None:
    block = BLOCKS[name]()
    x = signal_for(name, QUANTUM * sum(sizes), seed=seed)
    with torch.no_grad(), microddsp.streaming(block):
        chunks = x.split([QUANTUM * size for size in sizes], -1)
        streamed = joined(name, [block(chunk) for chunk in chunks])
    torch.testing.assert_close(streamed, block(x), rtol=0, atol=1e-12)


@every_block
def test_chunks_of_a_batch_equal_the_whole(name: str) -> None:
    block = BLOCKS[name]()
    x = signal_for(name, 40, 3, dtype=torch.float32)
    with torch.no_grad(), microddsp.streaming(block):
        streamed = joined(name, [block(chunk) for chunk in x.split([4, 24, 12], -1)])
    torch.testing.assert_close(streamed, block(x), rtol=0, atol=1e-5)
    assert streamed.dtype == torch.float32


@every_block
def test_a_batch_equals_its_rows(name: str) -> None:
    block = BLOCKS[name]()
    x = signal_for(name, 24, 2, 3)
    y = block(x)
    torch.testing.assert_close(y[1, 2], block(x[1, 2]), rtol=0, atol=1e-12)


@every_block
def test_steps_equal_the_whole_and_change_nothing(name: str) -> None:
    block = BLOCKS[name]()
    x = signal_for(name, 40, 2)
    outputs, state = [], None
    for chunk in x.split([8, 20, 12], -1):
        y, state = microddsp.step(block, chunk, state)
        outputs.append(y)
    torch.testing.assert_close(joined(name, outputs), block(x), rtol=0, atol=1e-12)
    assert state_names(block) == []


@every_block
def test_an_offline_call_leaves_no_trace(name: str) -> None:
    block = BLOCKS[name]()
    before = {key: value.clone() for key, value in block.state_dict().items()}
    first = block(signal_for(name, 24))
    assert state_names(block) == []
    assert torch.equal(block(signal_for(name, 24)), first)
    after = block.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


@every_block_with_state
def test_reset_starts_the_stream_anew(name: str) -> None:
    block = BLOCKS[name]()
    x = signal_for(name, 16)
    with torch.no_grad(), microddsp.streaming(block):
        first = block(x)
        assert not torch.equal(block(x), first)
        microddsp.reset(block)
        assert torch.equal(block(x), first)
    assert state_names(block) == []


@every_block_with_gradients
def test_gradients_to_parameters_and_signal_are_right(name: str) -> None:
    block = BLOCKS[name]().double()
    parameters = dict(block.named_parameters())
    x = signal_for(name, 12).requires_grad_()

    def run(x: Tensor, *values: Tensor) -> Tensor:
        given = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(block, given, (x,))

    values = [value.detach().clone().requires_grad_() for value in parameters.values()]
    assert torch.autograd.gradcheck(run, (x, *values))


@every_state_with_gradients
def test_gradients_flow_through_the_state(name: str) -> None:
    block = BLOCKS[name]().double().requires_grad_(False)
    _, state = microddsp.step(block, signal_for(name, 8, seed=1))
    moving = [key for key, value in state.items() if value.is_floating_point()]

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        y, after = microddsp.step(
            block, signal_for(name, 8, seed=2), state | dict(zip(moving, values, strict=True))
        )
        return (y, *(after[key] for key in moving))

    starts = [state[key].detach().clone().requires_grad_() for key in moving]
    assert torch.autograd.gradcheck(run, starts)


@every_learning_block
def test_check_names_a_parameter_that_is_not_finite(name: str) -> None:
    block = BLOCKS[name]()
    block.check()
    for key, value in block.named_parameters():
        before = value.detach().clone()
        with torch.no_grad():
            value.view(-1)[0] = float("nan")
        with pytest.raises(ParameterError, match=key.removesuffix(".raw")):
            block.check()
        with torch.no_grad():
            value.copy_(before)


@every_block
def test_a_block_prints_one_line(name: str) -> None:
    text = repr(BLOCKS[name]())
    assert "\n" not in text
    assert "grad" not in text and "tensor" not in text


@every_block
def test_what_is_learned_loads_into_another(name: str) -> None:
    block, other = BLOCKS[name](), BLOCKS[name]()
    with torch.no_grad():
        for value in block.parameters():
            value.add_(0.01)
    other.load_state_dict(block.state_dict())
    assert torch.equal(other(signal_for(name, 8)), block(signal_for(name, 8)))


@every_block
def test_the_start_of_a_block_fades_in_a_known_time(name: str) -> None:
    assert 0 <= BLOCKS[name]().settle_samples < 2_000
