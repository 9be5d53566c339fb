"""Bands and their heights in the time domain: what a spectrogram gives, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from microddsp.dsp.block import Block, State, positive
from microddsp.dsp.butterworth import Bandpass
from microddsp.dsp.decimate import Decimate
from microddsp.dsp.envelope import Envelope
from microddsp.dsp.gammatone import Gammatone
from microddsp.dsp.spacing import erb_centres, mel_edges
from microddsp.errors import SignalError


class Filterbank(Block):
    """One channel in, the height of each band in each channel out, at a lower rate.

    Band-passes, an envelope follower on each, every hop-th sample: a replacement for framing,
    Fourier transform and mel bands, with no latency of a frame and learnable in every part.
    Chunks must be multiples of the hop.

    Args:
        bands: `Bandpass` with a list of edges, `Gammatone`, or another block with several
            channels out.
        envelope: Its `Envelope`, for all bands or for each.
        hop: Samples for each output.
        spread: Whether the bands want the input on each of this many channels; 0: they take one.

    Raises:
        ParameterError: A value outside its range.
    """

    def __init__(
        self, bands: torch.nn.Module, envelope: torch.nn.Module, *, hop: int, spread: int = 0
    ) -> None:
        super().__init__()
        self.bands = bands
        self.envelope = envelope
        self.decimate = Decimate(hop)
        self.spread = spread

    @classmethod
    def mel(
        cls,
        bands: int,
        low_hz: float,
        high_hz: float,
        *,
        sample_rate_hz: float,
        hop: int,
        order: int = 1,
        attack_s: float = 0.001,
        release_s: float = 0.01,
    ) -> Filterbank:
        """Butterworth bands side by side, of equal width on the mel scale."""
        edges = mel_edges(bands, low_hz, high_hz, "Filterbank")
        return cls.butterworth(
            edges[:-1],
            edges[1:],
            sample_rate_hz=sample_rate_hz,
            hop=hop,
            order=order,
            attack_s=attack_s,
            release_s=release_s,
        )

    @classmethod
    def butterworth(
        cls,
        low_hz: Sequence[float],
        high_hz: Sequence[float],
        *,
        sample_rate_hz: float,
        hop: int,
        order: int = 1,
        attack_s: float | Sequence[float] = 0.001,
        release_s: float | Sequence[float] = 0.01,
    ) -> Filterbank:
        """Butterworth bands between given edges."""
        return cls(
            Bandpass(low_hz, high_hz, order, sample_rate_hz=sample_rate_hz),
            Envelope(attack_s, release_s, sample_rate_hz=sample_rate_hz),
            hop=hop,
            spread=len(positive("low_hz", low_hz, "Filterbank")),
        )

    @classmethod
    def gammatone(
        cls,
        bands: int,
        low_hz: float,
        high_hz: float,
        *,
        sample_rate_hz: float,
        hop: int,
        attack_s: float | Sequence[float] = 0.001,
        release_s: float | Sequence[float] = 0.01,
    ) -> Filterbank:
        """Gammatone bands, spaced as the ear's bandwidths."""
        centres = erb_centres(bands, low_hz, high_hz, "Filterbank")
        return cls(
            Gammatone(centres, sample_rate_hz=sample_rate_hz),
            Envelope(attack_s, release_s, sample_rate_hz=sample_rate_hz),
            hop=hop,
        )

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if x.shape[-2] != 1:
            raise SignalError(
                f"a filterbank takes one channel, got {x.shape[-2]}", where="Filterbank"
            )
        if self.spread:
            x = x.expand(*x.shape[:-2], self.spread, x.shape[-1])
        y: Tensor = self.decimate(self.envelope(self.bands(x)))
        return y, state

    def extra_repr(self) -> str:
        return f"{self.bands!r}, {self.envelope!r}, hop={self.decimate.factor}"
