"""Energies in bands: any weights, mel triangles, and cosine transforms over them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, positive, whole
from microddsp.dsp.filter import exact
from microddsp.errors import ParameterError


class _Bands(Block):
    """Weights (bands, bins) on spectra (..., channels, bins, frames), from `design`."""

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return relax_ops.bands(x, self.designed("weights").to(x)), state


class BandEnergies(_Bands):
    """Weighted sums over bins: (..., channels, bins, frames) to (..., channels, bands, frames).

    Args:
        weights: (bands, bins), any finite numbers. On devices zeros at both ends of a band cost
            nothing.
        learnable: Each weight that is not zero may grow and shrink, but keeps its sign; zeros stay.

    Raises:
        ParameterError: Not (bands, bins), or not finite.
    """

    def __init__(
        self, weights: np.ndarray | Sequence[Sequence[float]] | Tensor, *, learnable: bool = False
    ) -> None:
        super().__init__()
        values = torch.as_tensor(weights, dtype=torch.float64).detach().clone()
        if values.dim() != 2 or not values.numel() or not bool(torch.isfinite(values).all()):
            raise ParameterError(
                f"weights are (bands, bins), finite; got shape {tuple(values.shape)}",
                where="BandEnergies",
            )
        self._start = values
        self.log_gain = torch.nn.Parameter(torch.zeros(values.shape)) if learnable else None

    @classmethod
    def between(
        cls,
        edges_hz: Sequence[float],
        length: int,
        *,
        sample_rate_hz: float,
        learnable: bool = False,
    ) -> BandEnergies:
        """Sums of the bins of `length`-sample frames from each edge up to before the next.

        Raises:
            ParameterError: Edges that do not increase from 0 to half the rate, or an empty band.
        """
        edges = np.asarray(edges_hz, dtype=np.float64)
        rate = float(positive("sample_rate_hz", sample_rate_hz, "BandEnergies"))
        if edges.ndim != 1 or edges.size < 2 or not (np.diff(edges) > 0).all() or edges[0] < 0:
            raise ParameterError(
                f"edges_hz are two or more, increasing from 0 on; got {edges_hz}",
                where="BandEnergies",
            )
        bins = np.fft.rfftfreq(whole("length", length, "BandEnergies"), 1 / rate)
        weights = (bins >= edges[:-1, None]) & (bins < edges[1:, None])
        empty = np.flatnonzero(~weights.any(1))
        if empty.size:
            low, high = edges[empty[0] : empty[0] + 2]
            raise ParameterError(
                f"no bin lies from {low:g} to {high:g} Hz: bins are {rate / length:g} Hz apart",
                where="BandEnergies",
            )
        return cls(weights.astype(np.float64), learnable=learnable)

    def design(self) -> dict[str, Tensor]:
        if self.log_gain is None:
            return {"weights": self._start}
        gain = torch.exp(exact(self.log_gain))
        return {"weights": self._start.to(gain.device) * gain}

    def extra_repr(self) -> str:
        bands, bins = self._start.shape
        return f"bands={bands}, bins={bins}, learnable={self.log_gain is not None}"


class MelFilterbank(_Bands):
    """Triangles, even in mel, over spectra (..., channels, length / 2 + 1, frames).

    Args:
        n_mels: Number of bands.
        length: Samples of the frames that the spectra are of.
        sample_rate_hz: Samples per second.
        f_min_hz, f_max_hz: Outer edges; half the sample rate unless given.
        norm: None: triangles of height 1 (torchaudio's default); "slaney": of area 1 (librosa's).
        mel_scale: "htk" (torchaudio's default) or "slaney" (librosa's).
        learnable: The inner edges between the bands are learned; they stay in order.

    Raises:
        ParameterError: An argument outside its range.

    Warns:
        UserWarning: A band lies between two bins and is always zero.

    Source: S. S. Stevens and others (1937) in O'Shaughnessy's form ("htk"); M. Slaney, "Auditory
    Toolbox", 1998.
    """

    def __init__(
        self,
        n_mels: int,
        length: int,
        *,
        sample_rate_hz: float,
        f_min_hz: float = 0.0,
        f_max_hz: float | None = None,
        norm: str | None = None,
        mel_scale: str = "htk",
        learnable: bool = False,
    ) -> None:
        super().__init__()
        where = "MelFilterbank"
        self.n_mels = whole("n_mels", n_mels, where)
        self.length = whole("length", length, where, least=2)
        self.sample_rate_hz = rate = float(positive("sample_rate_hz", sample_rate_hz, where))
        self.f_min_hz = float(f_min_hz)
        self.f_max_hz = rate / 2 if f_max_hz is None else float(f_max_hz)
        if not 0 <= self.f_min_hz < self.f_max_hz <= rate / 2:
            raise ParameterError(
                f"0 <= f_min_hz < f_max_hz <= {rate / 2:g} must hold, "
                f"got {f_min_hz} and {f_max_hz}",
                where=where,
            )
        if norm not in (None, "slaney"):
            raise ParameterError(f'norm is None or "slaney", got {norm!r}', where=where)
        if mel_scale not in _SCALES:
            raise ParameterError(f'mel_scale is "htk" or "slaney", got {mel_scale!r}', where=where)
        self.norm, self.mel_scale = norm, mel_scale
        self.steps = torch.nn.Parameter(torch.zeros(self.n_mels + 1)) if learnable else None
        with torch.no_grad():
            empty = int((self.design()["weights"].amax(1) == 0).sum())
        if empty:
            warnings.warn(
                f"{empty} of {n_mels} mel bands lie between two bins and are always zero: fewer "
                "bands, or longer frames",
                UserWarning,
                stacklevel=2,
            )

    def edges_hz(self) -> Tensor:
        """The n_mels + 2 edges of the triangles, float64."""
        to_mel, to_hz = _SCALES[self.mel_scale]
        limits = torch.tensor([self.f_min_hz, self.f_max_hz], dtype=torch.float64)
        low, high = to_mel(limits)
        if self.steps is None:
            place = torch.linspace(0, 1, self.n_mels + 2, dtype=torch.float64)
        else:
            shares = torch.softmax(exact(self.steps), 0)
            place = torch.cat([shares.new_zeros(1), torch.cumsum(shares, 0)])
        return to_hz(low.to(place) + (high - low).to(place) * place)

    def design(self) -> dict[str, Tensor]:
        edges = self.edges_hz()
        assert self.sample_rate_hz is not None
        apart_hz = self.sample_rate_hz / self.length
        bins = torch.arange(self.length // 2 + 1).to(edges) * apart_hz
        low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
        rising = (bins - low) / (middle - low)
        falling = (high - bins) / (high - middle)
        weights = torch.minimum(rising, falling).clamp(min=0.0)
        # a bin on the outermost edge, but for rounding
        weights = torch.where(weights < _ROUNDING, torch.zeros_like(weights), weights)
        if self.norm == "slaney":
            weights = weights * (2.0 / (high - low))
        return {"weights": weights}

    def extra_repr(self) -> str:
        return (
            f"n_mels={self.n_mels}, length={self.length}, f_min_hz={self.f_min_hz:g}, "
            f"f_max_hz={self.f_max_hz:g}, norm={self.norm}, mel_scale={self.mel_scale}, "
            f"learnable={self.steps is not None}, sample_rate_hz={self.sample_rate_hz:g}"
        )


class DCT(_Bands):
    """Discrete cosine transform, type II, orthonormal, over bands: the first n_out coefficients.

    (..., channels, n_in, frames) to (..., channels, n_out, frames). Equals
    `scipy.fft.dct(x, axis=-2, norm="ortho")[..., :n_out, :]`.

    Raises:
        ParameterError: Not 1 <= n_out <= n_in.
    """

    def __init__(self, n_out: int, n_in: int) -> None:
        from scipy.fft import dct

        super().__init__()
        self.n_in = whole("n_in", n_in, "DCT")
        self.n_out = whole("n_out", n_out, "DCT")
        if self.n_out > self.n_in:
            raise ParameterError(f"{n_in} bands have no {n_out} coefficients", where="DCT")
        matrix = dct(np.eye(self.n_in), axis=0, norm="ortho")[: self.n_out]
        self._matrix = torch.from_numpy(np.ascontiguousarray(matrix))

    def design(self) -> dict[str, Tensor]:
        return {"weights": self._matrix}

    def extra_repr(self) -> str:
        return f"n_out={self.n_out}, n_in={self.n_in}"


# ---- mel scales

_ROUNDING = 1e-10
_BREAK_HZ, _HZ_A_MEL = 1000.0, 200.0 / 3
_BREAK_MEL = _BREAK_HZ / _HZ_A_MEL
_LOG_STEP = math.log(6.4) / 27.0


def _htk_mel(hz: Tensor) -> Tensor:
    return 2595.0 * torch.log10(1.0 + hz / 700.0)


def _htk_hz(mel: Tensor) -> Tensor:
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)


def _slaney_mel(hz: Tensor) -> Tensor:
    above = _BREAK_MEL + torch.log(hz.clamp(min=_BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return torch.where(hz < _BREAK_HZ, hz / _HZ_A_MEL, above)


def _slaney_hz(mel: Tensor) -> Tensor:
    above = _BREAK_HZ * torch.exp(_LOG_STEP * (mel.clamp(min=_BREAK_MEL) - _BREAK_MEL))
    return torch.where(mel < _BREAK_MEL, mel * _HZ_A_MEL, above)


_SCALES = {"htk": (_htk_mel, _htk_hz), "slaney": (_slaney_mel, _slaney_hz)}
