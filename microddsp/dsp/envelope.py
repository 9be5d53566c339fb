"""Envelope follower."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, decay_samples, positive, show, zeros
from microddsp.dsp.filter import Positive
from microddsp.errors import ParameterError, nearest

RECTIFIERS = ("abs", "square", "none")


class Envelope(Block):
    """Follow the height of a signal: quickly up, slowly down.

    Args:
        attack_s, release_s: Time constants in seconds, positive; one or one per channel.
        sample_rate_hz: Samples per second.
        rectify: "abs", "square" (power) or "none" (the input is rectified already).

    Raises:
        ParameterError: A value outside its range.

    Source: U. Zoelzer (ed.), "DAFX", 2nd ed., 4.2.1; coefficient 1 - exp(-1/(t fs)).
    """

    def __init__(
        self,
        attack_s: float | Sequence[float],
        release_s: float | Sequence[float],
        *,
        sample_rate_hz: float,
        rectify: str = "abs",
    ) -> None:
        super().__init__()
        if rectify not in RECTIFIERS:
            raise ParameterError(
                f"unknown rectify {rectify!r}", where="Envelope", hint=nearest(rectify, RECTIFIERS)
            )
        positive("sample_rate_hz", sample_rate_hz, "Envelope")
        self.attack = Positive(positive("attack_s", attack_s, "Envelope"))
        self.release = Positive(positive("release_s", release_s, "Envelope"))
        self.sample_rate_hz = float(sample_rate_hz)
        self.rectify = rectify

    @property
    def attack_s(self) -> Tensor:
        """The attack time constant in seconds."""
        return self.attack()

    @property
    def release_s(self) -> Tensor:
        """The release time constant in seconds."""
        return self.release()

    def coefficients(self) -> Tensor:
        """attack, release as shares of the difference per sample, float64."""
        assert self.sample_rate_hz is not None
        times = torch.stack(torch.broadcast_tensors(self.attack_s, self.release_s), -1)
        return -torch.expm1(-1 / (times * self.sample_rate_hz))

    def design(self) -> dict[str, Tensor]:
        return {"coefficients": self.coefficients()}

    def initial_state(self, x: Tensor) -> State:
        return {"level": zeros(x, 1)}

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if self.rectify == "abs":
            x = torch.abs(x)
        elif self.rectify == "square":
            x = x * x
        y, level = relax_ops.envelope(x, self.designed("coefficients").to(x), state["level"])
        return y, {"level": level}

    @property
    def settle_samples(self) -> int:
        assert self.sample_rate_hz is not None
        return decay_samples(float(self.release_s.detach().max()), self.sample_rate_hz)

    def extra_repr(self) -> str:
        return (
            f"attack_s={show(self.attack_s)}, release_s={show(self.release_s)}, "
            f"sample_rate_hz={self.sample_rate_hz:g}, rectify={self.rectify}"
        )
