"""Chains that everyone uses: mel spectrograms, their logarithms, cepstral coefficients."""

from __future__ import annotations

from typing import Any

import torch

from microddsp.dsp.bands import DCT, MelFilterbank
from microddsp.dsp.log import Log
from microddsp.dsp.spectrum import Spectrogram, Window


class MelSpectrogram(torch.nn.Sequential):
    """`Spectrogram`, then `MelFilterbank`: a signal to (..., channels, n_mels, frames).

    torchaudio's `MelSpectrogram` with `center=False` on a signal with length - hop zeros in front;
    librosa's with norm="slaney" and mel_scale="slaney".

    Args:
        n_mels: Number of bands.
        length, hop, window, power, window_length: As for `Spectrogram`.
        filterbank: Everything else is for `MelFilterbank`: sample_rate_hz, f_min_hz, f_max_hz,
            norm, mel_scale, learnable.

    Raises:
        ParameterError: An argument outside its range.
    """

    def __init__(
        self,
        n_mels: int,
        length: int,
        hop: int | None = None,
        *,
        sample_rate_hz: float,
        window: Window = "hann",
        power: int = 2,
        window_length: int | None = None,
        **filterbank: Any,
    ) -> None:
        super().__init__(
            Spectrogram(length, hop, window=window, power=power, window_length=window_length),
            MelFilterbank(n_mels, length, sample_rate_hz=sample_rate_hz, **filterbank),
        )


class LogMel(MelSpectrogram):
    """The logarithm of `MelSpectrogram`; ln(x + 1e-6) unless `log` says otherwise.

    Args:
        log: What follows the filter bank, e.g. `Log.decibels()`.

    Raises:
        ParameterError: An argument outside its range.
    """

    def __init__(self, *args: Any, log: torch.nn.Module | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.append(Log(offset=1e-6, amin=1e-30) if log is None else log)


class MFCC(MelSpectrogram):
    """Cepstral coefficients: `DCT` of `LogMel`, (..., channels, n_mfcc, frames).

    torchaudio's `MFCC` with `center=False`, except for its top_db, which looks at the whole
    recording.

    Args:
        n_mfcc: Number of coefficients, the first is the mean.
        n_mels: Number of bands.
        log: What lies between; decibels of powers unless given.

    Raises:
        ParameterError: An argument outside its range, or more coefficients than bands.
    """

    def __init__(
        self,
        n_mfcc: int,
        n_mels: int,
        *args: Any,
        log: torch.nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__(n_mels, *args, **options)
        self.append(Log.decibels() if log is None else log)
        self.append(DCT(n_mfcc, n_mels))
