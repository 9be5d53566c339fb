"""Pipelines written with torchaudio are compiled unchanged, and stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor, nn

import microddsp
from microddsp import dsp
from microddsp.relax_ops.factored import sections_of


def _python_part() -> Any:
    """torchaudio without its native extension, which links CUDA and fails beside a torch for CPUs:
    where no library lies in its folder, it goes without."""
    find = Path.glob

    def hidden(self: Path, *args: Any, **kwargs: Any) -> Iterator[Path]:
        if self.parts[-2:] == ("torchaudio", "lib"):
            return iter(())
        return iter(find(self, *args, **kwargs))

    with mock.patch.object(Path, "glob", hidden):
        import torchaudio
    return torchaudio


torchaudio = _python_part()
AF, AT = torchaudio.functional, torchaudio.transforms

RATE = 8000
X = torch.rand(2, 512, generator=torch.Generator().manual_seed(0)) * 2 - 1
BUTTER = [torch.tensor(c, dtype=torch.float32) for c in scipy.signal.butter(6, 0.3)]


A = torch.tensor([[1.0, -0.5], [2.0, 0.5]])
B = torch.tensor([[1.0, 0.0], [0.3, 0.2]])


class Call(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Trained(nn.Module):
    """Coefficients that are parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(A.clone()), nn.Parameter(B.clone())

    def forward(self, x: Tensor) -> Tensor:
        return AF.lfilter(x, self.a, self.b)


FILTERS: dict[str, Callable[[Tensor], Tensor]] = {
    "lowpass": lambda x: AF.lowpass_biquad(x, RATE, 400.0),
    "highpass": lambda x: AF.highpass_biquad(x, RATE, 400.0, Q=2.0),
    "bandpass": lambda x: AF.bandpass_biquad(x, RATE, 900.0),
    "bandreject": lambda x: AF.bandreject_biquad(x, RATE, 900.0),
    "allpass": lambda x: AF.allpass_biquad(x, RATE, 900.0),
    "equalizer": lambda x: AF.equalizer_biquad(x, RATE, 1000.0, 12.0),
    "treble": lambda x: AF.treble_biquad(x, RATE, 6.0),
    "bass": lambda x: AF.bass_biquad(x, RATE, -6.0, 300.0),
    "biquad": lambda x: AF.biquad(x, 0.5, 0.2, 0.1, 2.0, -0.4, 0.3),
    "order one": lambda x: AF.lfilter(x, torch.tensor([1.0, -0.9]), torch.tensor([0.1, 0.0])),
    "order six": lambda x: AF.lfilter(x, BUTTER[1], BUTTER[0]),
    "delayed": lambda x: AF.lfilter(
        x, torch.tensor([1.0, -0.5, 0.1, 0.02]), torch.tensor([0.0, 0.0, 1.0, 0.3]), clamp=False
    ),
    "one filter per channel": lambda x: AF.lfilter(x, A.to(x), B.to(x)),
    "two filters of one signal": lambda x: AF.lfilter(
        x[0], torch.tensor([[2.0, -0.5], [1.0, 0.5]]), torch.tensor([[1.0, 0.0], [0.3, 0.2]]), True,
        batching=False,
    ),
    "loud": lambda x: AF.equalizer_biquad(3.0 * x, RATE, 500.0, 20.0),
}  # fmt: skip


def close(got: Tensor, want: Tensor) -> None:
    assert got.shape == want.shape
    assert float((got - want).abs().max()) <= 1e-5 * max(float(want.abs().max()), 1.0)


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_streams_as_the_whole_signal(name: str) -> None:
    module = Call(FILTERS[name])
    whole = module(X)
    with microddsp.streaming(module):
        chunks = [module(chunk) for chunk in X.split([100, 1, 411], -1)]
    close(torch.cat(chunks, -1), whole)
    model = microddsp.compile(module, X[:, :64], target="host", name="m")
    close(model.run(X), whole)


def test_biquads_clamp_as_torchaudio_does() -> None:
    module = Call(FILTERS["loud"])
    got = microddsp.compile(module, X[:, :64], target="host", name="m").run(X)
    assert float(got.abs().max()) == 1.0
    assert int((got.abs() == 1.0).sum()) == int((module(X).abs() == 1.0).sum()) > 10


def chain(x: Tensor) -> Tensor:
    x = AF.highpass_biquad(x, RATE, 300.0)
    return AF.treble_biquad(AF.bass_biquad(x, RATE, 6.0), RATE, -3.0)


def test_a_chain_is_one_loop_with_a_state_for_each_filter() -> None:
    model = microddsp.compile(Call(chain), X[:, :64], target="host", name="m")
    assert model.sources["m.c"].count("static void m_k") == 1
    assert model.signature.state_bytes == 4 + 3 * 2 * 2 * 4
    assert model.signature.settle_samples > 100
    close(model.run(X), chain(X))


@pytest.mark.qemu
def test_a_chain_runs_on_a_device() -> None:
    module = Call(chain)
    model = microddsp.compile(module, X[:, :64], target="cortex-m4f", name="m")
    with microddsp.open_board("mps2-an386", model) as board:
        close(board.run(X), chain(X))
        microddsp.verify(module, model, X, board=board)


def test_a_step_carries_the_state_and_gradients() -> None:
    module = Trained()
    first, state = microddsp.step(module, X[:, :200])
    second, _ = microddsp.step(module, X[:, 200:], state)
    close(torch.cat([first, second], -1), module(X))
    second.sum().backward()
    assert module.a.grad is not None and bool(module.a.grad.abs().sum() > 0)


def test_reset_forgets() -> None:
    module = Call(FILTERS["lowpass"])
    with microddsp.streaming(module):
        first = module(X)
        assert not torch.equal(module(X), first)
        microddsp.reset(module)
        assert torch.equal(module(X), first)
    assert not list(module.children()) and not list(module.buffers())


def test_outside_a_stream_torchaudio_is_itself() -> None:
    module = Call(FILTERS["lowpass"])
    before = module(X)
    with microddsp.streaming(module):
        module(X)
        inside = AF.lowpass_biquad(X, RATE, 400.0)  # not of the module that streams
    assert torch.equal(inside, before)
    assert torch.equal(module(X), before)


def test_chunks_that_take_another_way_are_refused() -> None:
    class Sometimes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = AF.lowpass_biquad(x, RATE, 400.0)
            return AF.lowpass_biquad(x, RATE, 400.0) if x.shape[-1] > 8 else x

    module = Sometimes()
    with microddsp.streaming(module):
        module(X)
        with pytest.raises(microddsp.errors.SignalError, match="2 times per chunk, now 1"):
            module(X[:, :4])


def test_filtering_there_and_back_is_refused() -> None:
    module = Call(lambda x: AF.filtfilt(x, torch.tensor([1.0, -0.5]), torch.tensor([0.5, 0.0])))
    with pytest.raises(microddsp.CompileError, match="along time"):
        microddsp.compile(module, X[:, :64], target="host", name="m")


def test_a_filter_that_is_not_stable_is_refused() -> None:
    module = Call(lambda x: AF.biquad(x, 1.0, 0.0, 0.0, 1.0, -2.5, 1.0))
    with pytest.raises(microddsp.CompileError, match="not stable"):
        microddsp.compile(module, X[:, :64], target="host", name="m")


@pytest.mark.parametrize(
    "b, a",
    [
        (scipy.signal.cheby1(7, 1, [0.1, 0.4], "bandpass")),
        (scipy.signal.firwin(9, 0.3), np.eye(9)[0]),
        ([0.0, 0.0, 0.0, 0.0, 2.0], [1.0, 0.1, 0.0, 0.2, 0.0]),
        ([1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.5]),
        ([0.0, 1.0, 2.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.5, 0.0, 0.0]),
        ([0.0] * 4, [1.0, 0.0, 0.0, 0.5]),
    ],
)
def test_sections_are_the_same_filter(b: Any, a: Any) -> None:
    b, a = np.asarray(b, float), np.asarray(a, float)
    made = np.insert(sections_of(b, a), 3, 1.0, axis=1)
    impulse = np.eye(1, 64)[0]
    want = scipy.signal.lfilter(b, a, impulse)
    np.testing.assert_allclose(scipy.signal.sosfilt(made, impulse), want, atol=1e-9)


MEL = {"n_fft": 64, "hop_length": 32, "n_mels": 8}
TRANSFORMS: dict[str, Callable[[], nn.Module]] = {
    "spectrogram": lambda: AT.Spectrogram(64),
    "magnitudes": lambda: AT.Spectrogram(64, center=False, power=1.0, normalized=True),
    "window with zeros around it": lambda: AT.Spectrogram(50, win_length=40, hop_length=20),
    "mel": lambda: AT.MelSpectrogram(RATE, norm="slaney", mel_scale="slaney", **MEL),
    "decibels": lambda: nn.Sequential(
        AT.MelSpectrogram(RATE, center=False, **MEL), AT.AmplitudeToDB(top_db=60.0)
    ),
    "MFCC": lambda: AT.MFCC(RATE, 5, melkwargs=MEL),
    "MFCC of logarithms": lambda: AT.MFCC(RATE, 5, log_mels=True, melkwargs=MEL),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_of_each_block(name: str) -> None:
    module = TRANSFORMS[name]()
    model = microddsp.compile(module, X[:, :256], target="host", name="m")
    close(model.run(X), torch.stack([module(block) for block in X.split(256, -1)]))


@pytest.mark.parametrize("name", ["spectrogram", "decibels", "MFCC"])
@pytest.mark.parametrize("block", [64, 256])
def test_a_transform_of_frames_of_a_stream(name: str, block: int) -> None:
    module = nn.Sequential(Call(FILTERS["highpass"]), dsp.Frames(128, 64), TRANSFORMS[name]())
    model = microddsp.compile(module, X[:, :block], target="host", name="m")
    close(model.run(X), module(X))


def test_a_spectrogram_of_a_stream_without_frames_is_refused() -> None:
    module = nn.Sequential(Call(FILTERS["highpass"]), TRANSFORMS["spectrogram"]())
    with pytest.raises(microddsp.CompileError, match="along time") as caught:
        microddsp.compile(module, X[:, :256], target="host", name="m")
    assert "dsp.Frames" in caught.value.hint


def test_a_complex_result_is_refused_with_a_way_out() -> None:
    with pytest.raises(microddsp.CompileError, match="view_as_real"):
        microddsp.compile(AT.Spectrogram(64, power=None), X[:, :256], target="host", name="m")
