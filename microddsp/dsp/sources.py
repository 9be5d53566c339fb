"""Signals that are made, not measured: an oscillator and noise."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, positive, show, whole, zeros
from microddsp.dsp.filter import Frequency, Positive, exact
from microddsp.dsp.parameters import Number, free
from microddsp.relax_ops.noise import LEVELS, MODULI
from microddsp.relax_ops.oscillator import CYCLE

# Root mean square of the odd numbers from -LEVELS to LEVELS.
_RMS = (((LEVELS + 1) ** 2 - 1) / 3) ** 0.5


class Oscillator(Block):
    """A sine of height 1 whose frequency the input moves: y[n] = sin(2 pi (p[n] + phase)).

    The input is added to the frequency, in Hz, and stays below the sample rate; zeros give a
    steady tone. Its phase is counted in whole numbers, 2^46 to a cycle: it never drifts.

    Args:
        frequency_hz: Between 0 and half the sample rate; one or one per channel.
        sample_rate_hz: Samples per second.
        phase: Where the sine starts, in cycles (0.25 is a cosine); one or one per channel.

    Raises:
        ParameterError: A value outside its range.
    """

    def __init__(self, frequency_hz: Number, *, sample_rate_hz: float, phase: Number = 0.0) -> None:
        super().__init__()
        self.sample_rate_hz = float(positive("sample_rate_hz", sample_rate_hz, "Oscillator"))
        self.frequency = Frequency("frequency_hz", frequency_hz, self.sample_rate_hz, "Oscillator")
        self.phase = free("phase", phase, "Oscillator")

    @property
    def frequency_hz(self) -> Tensor:
        """The frequency in Hz."""
        return self.frequency()

    def design(self) -> dict[str, Tensor]:
        assert self.sample_rate_hz is not None
        increment = self.frequency_hz / self.sample_rate_hz
        # the value is whole, the gradient that of the frequency
        counts = increment * CYCLE
        high = counts + (torch.floor(counts) - counts).detach()
        low = torch.round((counts - high) * CYCLE).detach().clamp(max=CYCLE - 1)
        rate = torch.full_like(increment, self.sample_rate_hz)
        # whole cycles are none, and would take the digits of the rest
        phase = exact(self.phase)
        phase = phase - torch.round(phase).detach()
        parts = torch.broadcast_tensors(high, low, phase, rate)
        return {"coefficients": torch.stack(parts, -1)}

    def initial_state(self, x: Tensor) -> State:
        return {"phase": zeros(x, 3)}

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        coefficients = self.designed("coefficients").to(x)
        y, phase = relax_ops.oscillator(x, coefficients, state["phase"])
        return y, {"phase": phase}

    def extra_repr(self) -> str:
        return (
            f"frequency_hz={show(self.frequency_hz)}, phase={show(self.phase)}, "
            f"sample_rate_hz={self.sample_rate_hz:g}"
        )


class Noise(Block):
    """Add uniform noise, from the same numbers on every device and in every run.

    Each channel has its own noise; all recordings of a batch have the same.

    Args:
        level: Root mean square of the noise, positive; one or one per channel.
        seed: A whole number from 0; other seeds give other noise.

    Raises:
        ParameterError: A value outside its range.
    """

    def __init__(self, level: Number, *, seed: int = 0) -> None:
        super().__init__()
        self.rms = Positive(positive("level", level, "Noise"))
        self.seed = whole("seed", seed, "Noise", least=0)

    @property
    def level(self) -> Tensor:
        """Root mean square of the noise."""
        return self.rms()

    def design(self) -> dict[str, Tensor]:
        return {"height": (self.level / _RMS)[..., None]}

    def initial_state(self, x: Tensor) -> State:
        start = self._start(x.shape[-2]).to(x)
        return {"seed": start.expand(*x.shape[:-1], 3).contiguous()}

    def start_of(self, key: str) -> float | Tensor:
        return self._start(self.get_buffer("state_seed").shape[-2])

    def _start(self, channels: int) -> Tensor:
        rows = [
            np.random.SeedSequence([self.seed, channel]).generate_state(3)
            for channel in range(channels)
        ]
        moduli = np.array(MODULI, dtype=np.int64)
        return torch.as_tensor(
            (np.array(rows, dtype=np.int64) % (moduli - 1) + 1).astype("float64")
        )

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, seed = relax_ops.noise(x, self.designed("height").to(x), state["seed"])
        return y, {"seed": seed}

    def extra_repr(self) -> str:
        return f"level={show(self.level)}, seed={self.seed}"
