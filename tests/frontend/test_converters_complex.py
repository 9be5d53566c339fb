"""Fourier transforms and complex tensors, which a device has as pairs of real numbers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

import microddsp
from microddsp import dsp

HANN = torch.hann_window(8)
SPECTRUM = torch.polar(torch.linspace(0.5, 2.0, 5), torch.linspace(-1.0, 3.0, 5))


def analytic(x: Tensor) -> Tensor:
    """The envelope by Hilbert's transform."""
    weights = torch.tensor([1.0, 2, 2, 2, 1, 0, 0, 0])
    return torch.fft.ifft(torch.fft.fft(x) * weights).abs()


def stft(x: Tensor) -> Tensor:
    return torch.stft(x.flatten()[None], 8, 4, window=HANN, return_complex=True)


FUNCTIONS = {
    "magnitude": lambda s: torch.fft.rfft(s.x * HANN).abs(),
    "power": lambda s: torch.fft.rfft(s.x).abs() ** 2,
    "square": lambda s: torch.fft.rfft(s.x).abs().square(),
    "pairs": lambda s: torch.view_as_real(torch.fft.rfft(s.x)),
    "real": lambda s: torch.fft.rfft(s.x).real,
    "imag": lambda s: torch.fft.rfft(s.x).imag,
    "angle": lambda s: torch.fft.rfft(s.x)[..., 1:-1].angle(),
    "conjugate": lambda s: (torch.fft.rfft(s.x) * torch.fft.rfft(s.y).conj()).imag,
    "unitary": lambda s: torch.fft.rfft(s.x, norm="ortho").abs(),
    "of_another_length": lambda s: torch.fft.rfft(s.x, n=13, dim=0).abs(),
    "there_and_back": lambda s: torch.fft.irfft(torch.fft.rfft(s.x)),
    "there_and_back_odd": lambda s: torch.fft.irfft(torch.fft.rfft(s.x[:, :7]), n=7),
    "longer": lambda s: torch.fft.irfft(torch.fft.rfft(s.x), n=12),
    "shorter": lambda s: torch.fft.irfft(torch.fft.rfft(s.x), n=6),
    "convolution": lambda s: torch.fft.irfft(torch.fft.rfft(s.x, 16) * torch.fft.rfft(s.y, 16), 16),
    "filtered": lambda s: torch.fft.irfft(torch.fft.rfft(s.x) * SPECTRUM),
    "numbers": lambda s: ((torch.fft.rfft(s.x) * 2j + 1.0) / 3.0 - torch.fft.rfft(s.y)).abs(),
    "all_bins": lambda s: torch.fft.fft(s.x).abs(),
    "shifted": lambda s: torch.fft.fftshift(torch.fft.fft(s.x), dim=-1).real,
    "two_axes": lambda s: torch.fft.rfft2(s.x).abs(),
    "two_axes_back": lambda s: torch.fft.irfft2(torch.fft.rfft2(s.x), s=(3, 8)),
    "envelope": lambda s: analytic(s.x),
    "stft": lambda s: stft(s.x).abs(),
    "stft_and_back": lambda s: torch.istft(stft(s.x), 8, 4, window=HANN),
    "from_pairs": lambda s: torch.view_as_complex(s.x.reshape(3, 4, 2)).abs(),
    "from_parts": lambda s: torch.complex(s.x, s.y).exp().real,
    "from_angles": lambda s: torch.polar(s.x.abs(), s.y).imag,
    "sum": lambda s: torch.fft.rfft(s.x).sum(0).abs(),
    "mean": lambda s: torch.fft.rfft(s.x).mean(-1).abs(),
    "joined": lambda s: torch.cat([torch.fft.rfft(s.x), torch.fft.rfft(s.y)], -1).abs(),
}


@pytest.fixture(scope="module")
def case(together):  # type: ignore[no-untyped-def]
    return together(FUNCTIONS)


@pytest.fixture(scope="module")
def on_host(case) -> Mapping[str, Tensor]:  # type: ignore[no-untyped-def]
    return case.on_host()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_what_torch_computes(  # type: ignore[no-untyped-def]
    name: str, case, on_host: Mapping[str, Tensor]
) -> None:
    case.check(name, on_host[name])


class Power(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x * torch.hann_window(64)).abs() ** 2


def test_a_power_spectrum_takes_no_root_and_no_table_of_the_whole_transform() -> None:
    model = microddsp.compile(Power(), torch.zeros(1, 64), target="host", name="m")
    assert "sqrtf" not in model.sources["m.c"]
    assert len(model.sources["m.c"]) < 64 * 66 * 8


@pytest.mark.qemu
def test_a_device_computes_the_spectrum_of_frames() -> None:
    module = nn.Sequential(dsp.Frames(64, 32), Power())
    x = torch.randn(2, 512, generator=torch.Generator().manual_seed(0))
    model = microddsp.compile(module, x[:, :64], target="cortex-m4f", name="m")
    with microddsp.open_board("mps2-an386", model) as board:
        got, want = board.run(x), module(x)
    assert float((got - want).abs().max() / want.max()) < 1e-6
