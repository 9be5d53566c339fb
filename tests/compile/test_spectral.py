"""Spectral features through the compiled C, on the host and on a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import microddsp
from microddsp import dsp
from microddsp.errors import CompileError
from microddsp.micro.package.model import CompiledModel

FS = 16000.0
LENGTH, HOP = 128, 32


class Features(nn.Module):
    """Everything there is, of one signal."""

    def __init__(self) -> None:
        super().__init__()
        options: dict[str, Any] = {"sample_rate_hz": FS, "f_min_hz": 100.0}
        slaney = {"norm": "slaney", "mel_scale": "slaney"}
        self.parts = nn.ModuleDict(
            {
                "fourier": dsp.STFT(LENGTH, HOP, window_length=100),
                "magnitude": dsp.Spectrogram(LENGTH, HOP, power=1, window="blackman"),
                "log_mel": dsp.LogMel(9, LENGTH, HOP, **options, **slaney),
                "decibels": dsp.LogMel(
                    9, LENGTH, HOP, **options, log=dsp.Log.decibels(top_db=20.0, reference=0.5)
                ),
                "mfcc": dsp.MFCC(5, 9, LENGTH, HOP, **options, learnable=True),
                "pcen": nn.Sequential(
                    dsp.MelSpectrogram(3, LENGTH, HOP, **options),
                    dsp.PCEN(gain=[0.9, 0.8, 0.7], hop=HOP, sample_rate_hz=FS),
                ),
                "learned": nn.Sequential(
                    dsp.Spectrogram(LENGTH, HOP),
                    dsp.BandEnergies(torch.eye(4, LENGTH // 2 + 1) - 0.1, learnable=True),
                ),
            }
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: part(x) for name, part in self.parts.items()}


def noise(channels: int, samples: int) -> Tensor:
    return torch.randn(channels, samples, generator=torch.Generator().manual_seed(1)) + 0.2


def moved(module: nn.Module) -> nn.Module:
    """Parameters away from where they start."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return module


@pytest.mark.parametrize(("channels", "frames"), [(1, 1), (2, 3)])
def test_all_features_stream_in_c_as_in_torch(channels: int, frames: int) -> None:
    module = moved(Features())
    model = microddsp.compile(module, torch.zeros(channels, HOP * frames), target="host", name="m")
    x = noise(channels, HOP * frames * 7)
    found = model.run(x.numpy())
    with torch.no_grad():
        exact = module.double()(x.double())
    for name, value in exact.items():
        assert found[name].shape == value.shape, name
        scale = float(value.abs().max())
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize(("length", "hop"), [(64, 16), (64, 41), (8, 3), (32, 32)])
def test_a_frame_is_read_where_it_lies(length: int, hop: int) -> None:
    """Whatever part of a frame is past: nothing of it is copied together."""
    module = dsp.Spectrogram(length, hop, window=np.arange(1.0, length + 1.0))
    model = microddsp.compile(module, torch.zeros(2, hop), target="host", name="m")
    x = noise(2, hop * 9)
    expected = module.double()(x.double())
    np.testing.assert_allclose(
        model.run(x.numpy()), expected, rtol=0, atol=1e-6 * float(expected.max())
    )
    assert len(model.memory.buffers) <= 1  # the points of the transform


class Shared(nn.Module):
    """Frames for several layers: spectra alone, or something else too."""

    def __init__(self, *, others: bool) -> None:
        super().__init__()
        self.frames = dsp.Frames(32, 12)
        self.spectra = nn.ModuleList([dsp.PowerSpectrum(32), dsp.PowerSpectrum(32, power=1)])
        self.others = others

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        frames = self.frames(x)
        found = {f"y{i}": spectrum(frames) for i, spectrum in enumerate(self.spectra)}
        return found | ({"frames": frames * 2.0} if self.others else {})


@pytest.mark.parametrize("others", [False, True])
def test_frames_may_have_several_readers(others: bool) -> None:
    module, x = Shared(others=others), noise(1, 12 * 7)
    model = microddsp.compile(module, torch.zeros(1, 12), target="host", name="m")
    found, expected = model.run(x.numpy()), module(x)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=2e-5 * float(value.abs().max()))


class Classes(nn.Module):
    """A dense layer on the features of each frame."""

    def __init__(self) -> None:
        super().__init__()
        self.features = dsp.LogMel(8, LENGTH, HOP, sample_rate_hz=FS)
        self.dense = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.features(x).movedim(-1, 0)  # (frames, channels, bands)
        return self.dense(frames).softmax(-1)


@pytest.mark.parametrize("frames", [1, 2])
def test_layers_take_the_features_of_each_frame(frames: int) -> None:
    torch.manual_seed(0)
    module, x = Classes().eval(), noise(1, HOP * 6)
    model = microddsp.compile(module, torch.zeros(1, HOP * frames), target="host", name="m")
    assert model.signature.outputs[0].stream_axis == 0
    np.testing.assert_allclose(model.run(x), module(x).detach(), atol=1e-5)


def test_frames_back_along_time_are_a_stream_again() -> None:
    module = nn.Sequential(dsp.Frames(LENGTH, HOP), dsp.PowerSpectrum(LENGTH), dsp.Log(amin=1e-6))
    model = microddsp.compile(module, torch.zeros(1, HOP * 2), target="host", name="m")
    assert model.signature.outputs[0].stream_axis == -1
    x = noise(1, HOP * 4)
    np.testing.assert_allclose(model.run(x), module(x), atol=1e-4)


def test_a_model_of_one_frame_needs_no_stream() -> None:
    model = microddsp.compile(dsp.RFFT(), torch.zeros(2, 64), target="host", name="m")
    x = noise(2, 64)
    assert model.signature.outputs[0].stream_axis is None
    np.testing.assert_allclose(model.run(x), dsp.RFFT()(x), atol=1e-4)


class Lifted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[None]


class After(nn.Module):
    """Some features, and a function of them."""

    def __init__(self, features: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.features, self.function = features, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.features(x))


@pytest.mark.parametrize(
    ("features", "function"),
    [
        (dsp.Spectrogram(LENGTH, HOP), lambda y: y.mean(-1)),
        (dsp.Spectrogram(LENGTH, HOP), lambda y: y.flip(-1)),
        (dsp.Spectrogram(LENGTH, HOP), lambda y: y.flatten(-2)),
        (dsp.Spectrogram(LENGTH, HOP), lambda y: y.movedim(-1, 0).mean(0)),
        (dsp.Spectrogram(LENGTH, HOP), lambda y: y.transpose(-1, -2)),
        (dsp.STFT(LENGTH, HOP), lambda y: y.mean(0)),
        (dsp.FIR([1.0, 2.0]), dsp.RFFT()),
        (dsp.OnePole(100.0, sample_rate_hz=FS), dsp.RFFT()),
        (dsp.OnePole(100.0, sample_rate_hz=FS), nn.Sequential(Lifted(), dsp.PowerSpectrum(64))),
        (dsp.Frames(LENGTH, HOP), lambda y: dsp.DCT(2, 2)(y[:, 0])),
    ],
)
def test_what_looks_along_a_stream_is_refused(
    features: nn.Module, function: Callable[[Tensor], Tensor]
) -> None:
    with pytest.raises(CompileError, match="looks along time|mixes frames"):
        microddsp.compile(After(features, function), torch.zeros(1, 64), target="host", name="m")


def test_a_frame_without_a_fast_transform_names_the_way_out() -> None:
    with pytest.raises(CompileError, match="power of two; got 96") as caught:
        microddsp.compile(dsp.Spectrogram(96, 32), torch.zeros(1, 32), target="host", name="m")
    assert "next power of two" in caught.value.hint


# ---- device


def compiled(module: nn.Module, block: int) -> CompiledModel:
    return microddsp.compile(module, torch.zeros(1, block), target="cortex-m4f", name="m")


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        options: dict[str, Any] = {"sample_rate_hz": FS, "f_min_hz": 20.0}
        self.log_mel = dsp.LogMel(40, 512, 256, **options)
        self.mfcc = dsp.MFCC(13, 40, 512, 256, **options)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"log_mel": self.log_mel(x), "mfcc": self.mfcc(x)}


def test_log_mel_and_mfcc_on_a_device_equal_torch_and_the_host_to_the_bit() -> None:
    both, x = Both(), noise(1, 256 * 5)
    model = compiled(both, 256)
    report = microddsp.verify(both, model, x, board="mps2-an386")
    assert report.passed
    host = microddsp.compile(both, torch.zeros(1, 256), target="host", name="m").run(x.numpy())
    with microddsp.open_board("mps2-an386", model) as board:
        device = board.run(x)
    for name, value in host.items():
        np.testing.assert_array_equal(value, device[name])


def test_transform_and_log_mel_are_small_and_take_few_instructions() -> None:
    transform = compiled(dsp.RFFT(), 512)
    features = compiled(dsp.LogMel(40, 512, 512, sample_rate_hz=FS, f_min_hz=20.0), 512)
    x = noise(1, 512)
    with microddsp.open_board("mps2-an386", transform) as board:
        assert board.time(x).instructions_median < 12_600
    with microddsp.open_board("mps2-an386", features) as board:
        assert board.time(x).instructions_median < 18_600
    assert transform.memory.flash_bytes < 4 * 1024
    assert features.memory.flash_bytes < 8 * 1024
    # the arena: complex points, powers of the bins, bands
    assert features.memory.ram_bytes < 4 * (512 + 257 + 40) + 64


def test_overlap_takes_no_frame_of_its_own() -> None:
    """One frame of 512 without overlap takes 13 900 instructions; the rest moves the past on."""
    model = compiled(dsp.Spectrogram(512, 160), 160)
    with microddsp.open_board("mps2-an386", model) as board:
        assert board.time(noise(1, 160)).instructions_median < 16_000
    assert model.memory.ram_bytes < 4 * (512 + 512 - 160) + 64
