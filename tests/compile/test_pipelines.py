"""Whole pipelines, streamed block by block through the compiled C, against torch streaming."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import microddsp
from microddsp import dsp
from microddsp.errors import ParameterError

RATE = 8000.0


def signal(channels: int, samples: int, seed: int = 0) -> Tensor:
    """Noise with swells and an offset: it crosses thresholds and starts away from zero."""
    noise = torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed))
    swell = torch.sin(torch.arange(samples) * 0.13) ** 2
    return noise * swell + 0.25


def streamed(module: nn.Module, inputs: Sequence[Tensor], block: int) -> list[Any]:
    """What torch gives for each block of one stream."""
    blocks = zip(*(x.split(block, dim=-1) for x in inputs), strict=True)
    with torch.no_grad(), microddsp.streaming(module):
        return [module(*(x.clone() for x in given)) for given in blocks]


def same(got: Any, expected: Any) -> None:
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    if expected.dtype.kind == "f":
        scale = max(float(np.abs(expected).max()), 1e-3)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * scale)
    else:
        np.testing.assert_array_equal(got, expected)


def check(module: nn.Module, *inputs: Tensor, block: int, **options: Any) -> Any:
    """The C equals torch on each block; gives the model, reset."""
    module = module.eval()
    examples = [x[..., :block] for x in inputs]
    model = microddsp.compile(module, examples, target="host", name="m", **options)
    for i, expected in enumerate(streamed(module, inputs, block)):
        given = [x[..., i * block : (i + 1) * block] for x in inputs]
        same(model.run(*given), expected)
    model.reset()
    return model


def chosen(branch: int) -> nn.Module:
    select = dsp.Select(
        [dsp.Gain(2.0), dsp.Lowpass(900.0, 2, sample_rate_hz=RATE), dsp.FIR([0.5] * 99)]
    )
    with torch.no_grad():
        select.logits[branch] = 1.0
    return nn.Sequential(select, dsp.Envelope(0.001, 0.01, sample_rate_hz=RATE))


FILTERS: dict[str, Callable[[], nn.Module]] = {
    "lowpass": lambda: dsp.Lowpass(900.0, order=4, sample_rate_hz=RATE),
    "highpass": lambda: dsp.Highpass(200.0, order=3, sample_rate_hz=RATE),
    "bandpass": lambda: dsp.Bandpass(200.0, 900.0, order=2, sample_rate_hz=RATE),
    "bandstop": lambda: dsp.Bandstop(200.0, 900.0, order=2, sample_rate_hz=RATE),
    "biquad": lambda: dsp.Biquad("bandpass", 500.0, 3.0, RATE),
    "low biquad": lambda: dsp.Biquad("lowpass", 2.0, 0.7, RATE),
    "offset": lambda: dsp.Offset([-2.5, 0.25]),
    "mix": lambda: dsp.Mix([[0.5, -0.25], [1.0, 2.0], [0.0, 0.7]]),
    "short delay": lambda: dsp.Delay(3),
    "delay of a block": lambda: dsp.Delay(16),
    "long delay": lambda: dsp.Delay(37),
    "learnable delay": lambda: dsp.LearnableDelay(0.0007, max_s=0.003, sample_rate_hz=RATE),
    "learnable delays": lambda: dsp.LearnableDelay(
        [0.0002, 0.0029], max_s=0.003, sample_rate_hz=RATE, interpolation="lagrange"
    ),
    "rms": lambda: dsp.RMS([0.001, 0.01], sample_rate_hz=RATE),
    "rms of a window": lambda: dsp.RMS(window_s=0.001, sample_rate_hz=RATE),
    "general recursion": lambda: dsp.IIR(
        [0.0, 0.5, 0.2, -0.1], [1.0, -0.9, 0.5, -0.2, 0.05], sample_rate_hz=RATE
    ),
    "higher rate": lambda: dsp.Resample(3, 1, half_width=3),
    "tones": lambda: nn.Sequential(
        dsp.Gain(100.0), dsp.Oscillator([300.0, 1234.5], phase=0.1, sample_rate_hz=RATE)
    ),
    "noise": lambda: nn.Sequential(dsp.Gain(0.0), dsp.Noise([0.5, 0.1], seed=7)),
    "curve": lambda: dsp.Table([0.5, 1.0, -1.0, 0.25], low=-1.0, high=1.0),
    "curves": lambda: dsp.Table([[0.5, 1.0, -1.0], [0.0, 2.0, 1.0]]),
    "recording": lambda: dsp.Waveform([0.5, 1.0, -1.0, 0.25, 0.75], speed=0.7),
    "loop": lambda: dsp.Waveform([[0.5, 1.0, -1.0], [1.0, 0.0, 3.0]], speed=0.61, loop=True),
    "choice": lambda: chosen(1),
    "allpass": lambda: dsp.Biquad.allpass(500.0, 0.7, sample_rate_hz=RATE),
    "equaliser": lambda: nn.Sequential(
        dsp.Biquad.lowshelf(200.0, gain_db=6.0, sample_rate_hz=RATE),
        dsp.SVF.peaking(900.0, 2.0, gain_db=[-9.0, 3.0], sample_rate_hz=RATE),
        dsp.SVF.highshelf(2000.0, gain_db=-3.0, sample_rate_hz=RATE),
    ),
    "svf": lambda: dsp.SVF("notch", 50.0, 2.0, RATE),
    "sos": lambda: dsp.SOS(
        [[0.1, 0.2, 0.1, 1.0, -1.1, 0.4], [1.0, -1.0, 0.0, 1.0, -0.2, 0.5]], sample_rate_hz=RATE
    ),
    "one pole": lambda: dsp.OnePole(100.0, sample_rate_hz=RATE),
    "one pole by time": lambda: dsp.OnePole(time_constant_s=0.01, sample_rate_hz=RATE),
    "dc blocker": lambda: dsp.DCBlocker(5.0, sample_rate_hz=RATE),
    "fir": lambda: dsp.FIR.lowpass(1000.0, 9, sample_rate_hz=RATE),
    "envelope": lambda: dsp.Envelope(0.001, 0.01, sample_rate_hz=RATE),
    "power": lambda: dsp.Envelope(0.001, 0.01, sample_rate_hz=RATE, rectify="square"),
    "gain": lambda: dsp.Gain(-2.5),
    "counter": lambda: dsp.EventCounter(0.6, 0.5, refractory_s=0.001, sample_rate_hz=RATE),
    "events": lambda: dsp.EventCounter(
        0.6, release_threshold=-0.1, sample_rate_hz=RATE, per_sample=True
    ),
    "per channel": lambda: nn.Sequential(
        dsp.Gain([1.5, -0.5]),
        dsp.Biquad("bandpass", [400.0, 900.0], [1.0, 4.0], RATE),
        dsp.FIR(torch.tensor([[0.5, 0.25, 0.1], [1.0, -1.0, 0.3]])),
        dsp.OnePole([100.0, 300.0], sample_rate_hz=RATE),
        dsp.Envelope([0.001, 0.002], 0.01, sample_rate_hz=RATE),
        dsp.EventCounter([0.05, 0.1], sample_rate_hz=RATE),
    ),
    "settled": lambda: nn.Sequential(
        dsp.DCBlocker(5.0, sample_rate_hz=RATE, initial="first_sample"),
        dsp.Lowpass(900.0, order=2, sample_rate_hz=RATE, initial="first_sample"),
        dsp.SVF("lowpass", 20.0, 0.7, RATE, initial="first_sample"),
    ),
    "causal conv": lambda: dsp.CausalConv1d(2, 3, 4, dilation=2),
    "grouped conv": lambda: dsp.CausalConv1d(2, 4, 3, groups=2, bias=False),
    "network": lambda: nn.Sequential(
        dsp.CausalConv1d(2, 4, 3),
        nn.ReLU(),
        dsp.CausalConv1d(4, 4, 1),
        nn.Tanh(),
        dsp.CausalConv1d(4, 1, 5),
    ),
    "detector": lambda: nn.Sequential(
        dsp.Bandpass(200.0, 900.0, sample_rate_hz=RATE),
        dsp.Envelope(0.001, 0.01, sample_rate_hz=RATE),
        dsp.EventCounter(0.1, 0.5, refractory_s=0.002, sample_rate_hz=RATE),
    ),
}


@pytest.mark.parametrize("block", [1, 16])
@pytest.mark.parametrize("name", FILTERS)
def test_a_block_streams_as_in_torch(name: str, block: int) -> None:
    torch.manual_seed(0)
    check(FILTERS[name](), signal(2, 96 if block > 1 else 24), block=block)


BANKS: dict[str, Callable[[], nn.Module]] = {
    "sinc bands": lambda: dsp.SincFilterbank.mel(3, 9, sample_rate_hz=RATE),
    "sinc bands with a hop": lambda: dsp.SincFilterbank.mel(5, 20, sample_rate_hz=RATE, hop=8),
    "gammatone": lambda: dsp.Gammatone.erb(3, 100.0, 3000.0, sample_rate_hz=RATE),
    "one gammatone": lambda: dsp.Gammatone(400.0, sample_rate_hz=RATE, form="svf"),
    "bank": lambda: nn.Sequential(
        dsp.DCBlocker(5.0, sample_rate_hz=RATE),
        dsp.Filterbank.mel(4, 100.0, 3000.0, sample_rate_hz=RATE, hop=4, order=2),
        dsp.Gain([1.0, 0.5, 0.25, 0.0]),
    ),
    "gammatone bank": lambda: dsp.Filterbank.gammatone(
        4, 100.0, 3000.0, sample_rate_hz=RATE, hop=8
    ),
}


@pytest.mark.parametrize("name", BANKS)
def test_a_bank_streams_as_in_torch(name: str) -> None:
    check(BANKS[name](), signal(1, 96), block=16)


def test_what_channels_have_in_common_is_a_constant_in_the_c() -> None:
    bank = dsp.Bandpass([100.0, 300.0], [300.0, 900.0], 1, sample_rate_hz=RATE)
    model = microddsp.compile(bank, torch.zeros(2, 16), target="host", name="m")
    source = model.sources["m.c"]
    # b0 b1 b2 a1 a2: b1 is 0 for both channels
    assert "((v * 5) + 2)" in source and "((v * 5) + 1)" not in source


RATES: dict[str, Callable[[], nn.Module]] = {
    "decimated": lambda: nn.Sequential(
        dsp.Lowpass(900.0, sample_rate_hz=RATE),
        dsp.Decimate(4),
        dsp.OnePole(100.0, sample_rate_hz=RATE / 4),
    ),
    "lower rate": lambda: dsp.Resample(1, 4, half_width=3),
    "other rate": lambda: nn.Sequential(
        dsp.Lowpass(900.0, sample_rate_hz=RATE), dsp.Resample(3, 4, half_width=3)
    ),
    "low filter at a low rate": lambda: dsp.decimate_then_filter(
        lambda rate: dsp.Bandpass(20.0, 90.0, 2, sample_rate_hz=rate),
        keep_hz=100.0,
        sample_rate_hz=RATE,
    ),
    "strided conv": lambda: nn.Sequential(
        dsp.CausalConv1d(2, 3, 5, stride=2), nn.ReLU(), dsp.CausalConv1d(3, 2, 3, stride=2)
    ),
    "framed conv": lambda: nn.Sequential(
        dsp.DCBlocker(5.0, sample_rate_hz=RATE),
        dsp.Frames(12, 8),
        nn.Conv1d(2, 4, 3),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Flatten(),
        nn.Linear(20, 3),
        nn.Softmax(-1),
    ),
    "framed linear": lambda: nn.Sequential(dsp.Frames(8), nn.Linear(8, 2), nn.Sigmoid()),
    "framed layers": lambda: nn.Sequential(
        dsp.Frames(8, 4),
        nn.Linear(8, 6),
        nn.LayerNorm(6),
        nn.Softmax(1),
        nn.Flatten(),
        nn.Linear(12, 2),
        nn.LogSoftmax(-1),
    ),
    "one frame a block": lambda: nn.Sequential(dsp.Frames(32, 16), nn.AdaptiveAvgPool1d(1)),
}


@pytest.mark.parametrize("name", RATES)
def test_a_pipeline_that_changes_the_rate_streams_as_in_torch(name: str) -> None:
    torch.manual_seed(0)
    check(RATES[name](), signal(2, 96), block=16)


def test_many_blocks_at_once_are_the_blocks_joined() -> None:
    module = nn.Sequential(dsp.OnePole(100.0, sample_rate_hz=RATE), dsp.Decimate(2))
    x = signal(2, 96)
    model = check(module, x, block=16)
    same(model.run(x), torch.cat(streamed(module, [x], 16), -1))
    same(
        model.run(x[:, :32]),
        torch.cat(streamed(module, [torch.cat([x, x[:, :32]], -1)], 16), -1)[:, 48:],
    )


def test_a_stream_equals_the_whole_signal() -> None:
    module = FILTERS["settled"]()
    x = signal(2, 96)
    with torch.no_grad():
        same(check(module, x, block=16).run(x), module(x))


class Named(NamedTuple):
    level: Tensor
    events: Tensor


class Detector(nn.Module):
    """Two answers, in the form that is asked for."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.envelope = dsp.Envelope(0.001, 0.01, sample_rate_hz=RATE)
        self.counter = dsp.EventCounter(0.5, sample_rate_hz=RATE)

    def forward(self, x: Tensor) -> Any:
        level = self.envelope(x)
        events = self.counter(level)
        if self.form == "dict":
            return {"level": level, "events": events}
        return Named(level, events) if self.form == "namedtuple" else (level, events)


@pytest.mark.parametrize("form", ["dict", "namedtuple", "tuple"])
def test_several_outputs_come_back_in_their_structure(form: str) -> None:
    module, x = Detector(form), signal(2, 32)
    model = microddsp.compile(module, x[:, :16], target="host", name="m")
    got = model.run(x)
    expected = streamed(module, [x], 16)
    keys: Sequence[Any] = ("level", "events") if form == "dict" else (0, 1)
    for key in keys:
        same(got[key], torch.cat([block[key] for block in expected], -1))
    if form == "namedtuple":
        assert type(got).__name__ == "Named"
        assert got._fields == ("level", "events")
    else:
        assert isinstance(got, dict if form == "dict" else tuple)


def test_taps_show_inner_signals() -> None:
    module, x = FILTERS["detector"](), signal(2, 32)
    model = microddsp.compile(module, x[:, :16], target="host", name="m", taps=["0", "1"])
    got = model.run(x)
    with torch.no_grad():
        band = module[0](x)
        level = module[1](band)
    same(got["tap_0"], band)
    same(got["tap_1"], level)
    assert [o.name for o in model.signature.outputs] == list(got)
    assert got["out"].dtype == torch.int32


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = dsp.OnePole(100.0, sample_rate_hz=RATE)
        self.second = dsp.OnePole(300.0, sample_rate_hz=RATE)

    def forward(self, near: Tensor, far: Tensor) -> Tensor:
        return self.first(near) - self.second(far).mean(0, keepdim=True)


def test_two_inputs_stream_together() -> None:
    model = check(Mixer(), signal(1, 64), signal(2, 64, seed=1), block=16)
    assert [spec.name for spec in model.signature.inputs] == ["near", "far"]


class Ring(nn.Module):
    """A delay of five samples in a buffer of its own, that does not start at zero."""

    line: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("line", torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]))

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.line, x], -1)
        self.line.copy_(joined[:, -5:])
        return joined[:, : x.shape[-1]]


class Echo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ring = Ring()
        self.smooth = dsp.OnePole(300.0, sample_rate_hz=RATE)

    def forward(self, x: Tensor) -> Tensor:
        return self.smooth(x + 0.5 * self.ring(x))


@pytest.mark.parametrize("block", [1, 4, 16])
def test_a_ring_of_the_users_own_streams(block: int) -> None:
    module, x = Ring(), signal(1, 32)
    model = microddsp.compile(module, x[:, :block], target="host", name="m")
    got = model.run(x)
    same(got, torch.cat([torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]), x[:, :-5]], -1))
    same(module.line, torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]))
    model.reset()
    same(model.run(x), got)


def test_states_of_the_user_and_of_blocks_live_together() -> None:
    check(Echo(), signal(1, 64), block=16)


class Total(nn.Module):
    """Counts in an integer buffer."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.tensor([[7]], dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_((x > 0).sum(-1, keepdim=True).to(torch.int32))
        return self.seen.clone()


def test_a_state_may_be_an_integer() -> None:
    check(Total(), signal(1, 64), block=16)


class Returns(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def test_an_output_may_be_the_input() -> None:
    x = signal(2, 16)
    model = microddsp.compile(Returns(lambda x: (x, x + 1)), x, target="host", name="m")
    first, second = model.run(x)
    same(first, x)
    same(second, x + 1)


def test_the_same_tensor_may_be_two_outputs() -> None:
    def twice(x: Tensor) -> dict[str, Tensor]:
        y = x * 2
        return {"one": y, "two": y}

    x = signal(2, 16)
    got = microddsp.compile(Returns(twice), x, target="host", name="m").run(x)
    same(got["one"], x * 2)
    same(got["two"], x * 2)


def test_an_output_may_be_constant() -> None:
    x, constant = signal(2, 16), torch.tensor([1.5, -2.5])
    model = microddsp.compile(Returns(lambda x: (x * 2, constant * 2)), x, target="host", name="m")
    first, second = model.run(x)
    same(first, x * 2)
    same(second, constant * 2)


def test_a_state_may_be_an_output() -> None:
    class Level(nn.Module):
        level: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("level", torch.zeros(2, 1))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            before = self.level.clone()
            self.level.copy_(x[:, -1:])
            return before, self.level

    x = signal(2, 32)
    model = microddsp.compile(Level(), x[:, :16], target="host", name="m")
    same(model.run(x[:, :16])[0], torch.zeros(2, 1))
    before, now = model.run(x[:, 16:])
    same(before, x[:, 15:16])
    same(now, x[:, 31:])


def test_states_that_change_places_are_refused() -> None:
    class Swap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("odd", torch.ones(1, 4))
            self.register_buffer("even", torch.full((1, 4), 2.0))

        def forward(self, x: Tensor) -> Tensor:
            odd, even = self.odd.clone(), self.even.clone()
            self.odd.copy_(even)
            self.even.copy_(odd)
            return x + odd

    with pytest.raises(microddsp.CompileError, match="exchange"):
        microddsp.compile(Swap(), torch.zeros(1, 4), target="host", name="m")


def test_raw_interleaved_samples_are_scaled_and_sorted() -> None:
    module, x = FILTERS["lowpass"](), signal(2, 64)
    raw = (x * 8000).to(torch.int16)
    model = microddsp.compile(
        module,
        x[:, :16],
        target="host",
        name="m",
        input=microddsp.Input(dtype="s16", interleaved=True),
    )
    with torch.no_grad():
        same(model.run(raw), module(raw.float() / 32768))
    assert model.signature.inputs[0].shape == (16, 2)


def test_raw_samples_with_offset_are_scaled() -> None:
    module, x = FILTERS["envelope"](), signal(2, 32)
    raw = (x * 400 + 2048).to(torch.int32).numpy().astype("uint16")
    model = microddsp.compile(
        module,
        x[:, :16],
        target="host",
        name="m",
        input=microddsp.Input(dtype="u16", offset=2048.0, scale=1 / 2048),
    )
    with torch.no_grad():
        same(model.run(raw), module((torch.from_numpy(raw.astype("float32")) - 2048) / 2048))


def test_two_instances_do_not_disturb_each_other(tmp_path: Any) -> None:
    module, x = FILTERS["detector"](), signal(2, 64)
    microddsp.compile(module, x[:, :16], target="host", name="m").save(tmp_path / "m.tar")
    one, two = (microddsp.load(tmp_path / "m.tar") for _ in range(2))
    expected = streamed(module, [x], 16)
    one.run(x[:, :16])
    same(one.run(x[:, 16:32]), expected[1])
    same(two.run(x[:, :16]), expected[0])
    same(one.run(x[:, 32:48]), expected[2])


def test_reset_forgets_the_signal() -> None:
    module, x = FILTERS["network"](), signal(2, 64)
    model = microddsp.compile(module, x[:, :16], target="host", name="m")
    first = model.run(x)
    assert not torch.equal(model.run(x), first)
    model.reset()
    assert torch.equal(model.run(x), first)


def test_compiling_leaves_the_module_as_it_was() -> None:
    module, x = Echo().train(), signal(1, 16)
    before = {name: value.clone() for name, value in module.named_buffers()}
    microddsp.compile(module, x, target="host", name="m")
    assert module.training
    assert {name for name, _ in module.named_buffers()} == set(before)
    for name, value in module.named_buffers():
        assert torch.equal(value, before[name])


def test_equal_models_give_equal_sources() -> None:
    x = signal(2, 16)
    first, second = (
        microddsp.compile(FILTERS["detector"](), x, target="host", name="m") for _ in range(2)
    )
    assert first.sources == second.sources


@pytest.mark.parametrize("unroll", [1, 3, 16, 64])
def test_any_number_of_samples_a_pass_gives_the_same(unroll: int) -> None:
    module = nn.Sequential(
        dsp.Lowpass(900.0, 2, sample_rate_hz=RATE),
        dsp.EventCounter(0.3, 0.5, refractory_s=0.001, sample_rate_hz=RATE),
    )
    check(module, signal(2, 60), block=20, unroll=unroll)


@pytest.mark.parametrize("unroll", [0, -1, 65, True])
def test_a_senseless_unroll_is_refused(unroll: int) -> None:
    with pytest.raises(ParameterError, match="unroll"):
        microddsp.compile(dsp.Gain(2.0), torch.zeros(1, 8), target="host", unroll=unroll)
