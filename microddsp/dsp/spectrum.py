"""Fourier spectra of frames and of streams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, whole
from microddsp.dsp.framing import Overlapping
from microddsp.errors import ParameterError, SignalError

Window = str | tuple[object, ...] | Sequence[float] | np.ndarray | Tensor


def window_of(window: Window, length: int, within: int, where: str) -> Tensor:
    """A window of `length`, float64, with equal numbers of zeros around it up to `within`, as
    `torch.stft` does. Names are scipy's; named windows are periodic.

    Raises:
        ParameterError: Unknown name, wrong length, not finite, or longer than `within`.
    """
    if length > within:
        raise ParameterError(
            f"the window of {length} is longer than the frame {within}", where=where
        )
    if isinstance(window, str) or (isinstance(window, tuple) and isinstance(window[0], str)):
        from scipy.signal import get_window

        try:
            values = torch.from_numpy(get_window(window, length)).double()
        except ValueError as error:
            raise ParameterError(str(error), where=where) from error
    else:
        values = torch.as_tensor(window, dtype=torch.float64).detach().clone()
    if tuple(values.shape) != (length,) or not bool(torch.isfinite(values).all()):
        raise ParameterError(
            f"a window is a name or {length} finite numbers, got shape {tuple(values.shape)}",
            where=where,
        )
    before = (within - length) // 2
    return torch.nn.functional.pad(values, (before, within - length - before))


class RFFT(Block):
    """Bins 0 to n / 2 of frames (..., n): (..., n / 2 + 1, 2), real and imaginary parts.

    Equals `torch.view_as_real(torch.fft.rfft(x))`. On a stream it follows `Frames`; on devices n is
    a power of two from 8 to 4096.
    """

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return relax_ops.rfft(x), state


class _Windowed(Block):
    """What has a window on frames of `length` samples."""

    window: Tensor

    def __init__(self, length: int, window: Window, window_length: int | None) -> None:
        super().__init__()
        where = type(self).__name__
        self.length = whole("length", length, where)
        self.window_length = self.length
        if window_length is not None:
            self.window_length = whole("window_length", window_length, where)
        self.window_name = window if isinstance(window, str) else "given"
        values = window_of(window, self.window_length, self.length, where)
        # in float64 whatever becomes of the module: it is no parameter and no part of a checkpoint
        self._window = values

    def design(self) -> dict[str, Tensor]:
        return {"window": self._window}

    def _window_like(self, x: Tensor) -> Tensor:
        return self.designed("window").to(x)

    def extra_repr(self) -> str:
        inner = f", window_length={self.window_length}" * (self.window_length != self.length)
        return f"length={self.length}, window={self.window_name}{inner}"


class PowerSpectrum(_Windowed):
    """|rfft(frame * window)| ** power of frames (..., frames, channels, length), as `Frames` gives.

    Returns (..., channels, length / 2 + 1, frames), as torchaudio's `Spectrogram`.

    Args:
        length: Samples of a frame; on devices a power of two from 8 to 4096.
        window: A name that scipy knows (periodic), or the numbers themselves.
        power: 2, or 1 for the magnitude.
        window_length: Less than `length`: zeros fill up on both sides.

    Raises:
        ParameterError: An argument outside its range.
    """

    def __init__(
        self,
        length: int,
        *,
        window: Window = "hann",
        power: int = 2,
        window_length: int | None = None,
    ) -> None:
        super().__init__(length, window, window_length)
        self.power = checked_power(power, "PowerSpectrum")

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if x.dim() < 3 or x.shape[-1] != self.length:
            raise SignalError(
                f"frames are (..., frames, channels, {self.length}), got {tuple(x.shape)}",
                where="PowerSpectrum",
                hint="put Frames before it, or take Spectrogram",
            )
        return relax_ops.spectrum(x, self._window_like(x), self.power), state

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, power={self.power}"


class _WindowedFrames(Overlapping, _Windowed):
    """What cuts a stream into frames and weighs each with a window."""

    def __init__(
        self, length: int, hop: int | None, window: Window, window_length: int | None
    ) -> None:
        super().__init__(length, window, window_length)
        self._set_hop(self.length, self.length // 2 if hop is None else hop)

    def extra_repr(self) -> str:
        return f"hop={self.hop}, {super().extra_repr()}"


class STFT(_WindowedFrames):
    """Short-time Fourier transform of a signal (..., channels, samples).

    Returns (..., frames, channels, length / 2 + 1, 2): each frame is one item, as `Frames` has
    it, with real and imaginary parts last. Frame m holds the `length` samples that end at sample
    (m + 1) * hop - 1, with zeros before the start: `torch.stft` with `center=False` on a signal
    with length - hop zeros in front. Chunks must be multiples of the hop.

    Args:
        length: Samples of a frame; on devices a power of two from 8 to 4096.
        hop: Samples between frames; half the length unless given.
        window, window_length: As for `PowerSpectrum`.

    Raises:
        ParameterError: An argument outside its range.
    """

    def __init__(
        self,
        length: int,
        hop: int | None = None,
        *,
        window: Window = "hann",
        window_length: int | None = None,
    ) -> None:
        super().__init__(length, hop, window, window_length)

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        frames, state = self.cut(x, state)
        return relax_ops.rfft(frames * self._window_like(x)), state


class Spectrogram(_WindowedFrames):
    """Power of the bins of overlapping frames, of a signal (..., channels, samples).

    Returns (..., channels, length / 2 + 1, frames): torchaudio's `Spectrogram` with `center=False`
    on a signal with length - hop zeros in front (see `STFT`). Arguments as for `STFT`, and

    Args:
        power: 2, or 1 for the magnitude.

    Raises:
        ParameterError: An argument outside its range.
    """

    def __init__(
        self,
        length: int,
        hop: int | None = None,
        *,
        window: Window = "hann",
        power: int = 2,
        window_length: int | None = None,
    ) -> None:
        super().__init__(length, hop, window, window_length)
        self.power = checked_power(power, "Spectrogram")

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        frames, state = self.cut(x, state)
        return relax_ops.spectrum(frames, self._window_like(x), self.power), state

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, power={self.power}"


def checked_power(power: int, where: str) -> int:
    """1 or 2.

    Raises:
        ParameterError: Something else.
    """
    if power not in (1, 2):
        raise ParameterError(f"power is 1 (magnitude) or 2, got {power!r}", where=where)
    return int(power)
