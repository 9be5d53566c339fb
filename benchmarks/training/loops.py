"""Recursions as a plain loop over samples in torch: what one would write without a library.

Loops are linear in the number of samples, so they are measured with fewer of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.training.clock import Run
from microddsp import dsp

RATE_HZ = 8000.0
SIGNALS = 8
REFRACTORY_SAMPLES = 40


def passes(
    make: Callable[[Tensor, Tensor], Tensor], samples: int, values: tuple[float, ...]
) -> Run:
    """Forward and backward passes of `make(x, learned)` to the signal and to what is learned."""
    learned = torch.tensor(values, requires_grad=True)
    x = signals(samples).requires_grad_()

    def run() -> tuple[Tensor, Tensor, Tensor]:
        x.grad = learned.grad = None
        y = make(x, learned)
        y.sum().backward()
        assert x.grad is not None and learned.grad is not None
        return y.detach(), x.grad, learned.grad

    return run


def of_block(block: torch.nn.Module, samples: int) -> Run:
    """Forward and backward passes of a block to the signal and to its parameters."""
    x = signals(samples).requires_grad_()
    learned = [p for p in block.parameters() if p.requires_grad]

    def run() -> tuple[Tensor, Tensor]:
        for value in (x, *learned):
            value.grad = None
        y = block(x)
        y.sum().backward()
        assert x.grad is not None
        return y.detach(), x.grad

    return run


def signals(samples: int) -> Tensor:
    """(8, 1, samples): bursts that rise above 0.5 every 400 samples, and noise."""
    generator = torch.Generator().manual_seed(0)
    bursts = 0.4 + 0.4 * torch.sin(torch.arange(samples) * (2 * torch.pi / 400))
    return bursts + 0.02 * torch.randn(SIGNALS, 1, samples, generator=generator)


def envelope_loop(x: Tensor, learned: Tensor) -> Tensor:
    """learned: attack and release."""
    attack, release = learned
    level, levels = x.new_zeros(x.shape[:-1]), []
    for sample in x.unbind(-1):
        distance = sample - level
        level = level + torch.where(distance > 0, attack, release) * distance
        levels.append(level)
    return torch.stack(levels, -1)


def counter_loop(x: Tensor, learned: Tensor) -> Tensor:
    """learned: threshold and gap; counts, with the gradient of a soft threshold's rises."""
    threshold, gap = learned
    high, low = threshold.detach(), (threshold - gap).detach()
    armed = torch.zeros(x.shape[:-1], dtype=torch.bool)
    wait = torch.zeros(x.shape[:-1], dtype=torch.int32)
    count, before = x.new_zeros(x.shape[:-1]), None
    for sample in x.unbind(-1):
        soft = torch.sigmoid(4.0 * (sample - threshold) / gap)
        rise = torch.relu(soft - (soft if before is None else before))
        fire = armed & (sample.detach() > high) & (wait == 0)
        armed = ~fire & (armed | (sample.detach() < low))
        wait = torch.where(fire, REFRACTORY_SAMPLES, (wait - 1).clamp(min=0))
        count = count + fire + (rise - rise.detach())
        before = soft
    return count[..., None]


def envelope_block() -> torch.nn.Module:
    return dsp.Envelope(0.002, 0.02, sample_rate_hz=RATE_HZ)


def counter_block() -> torch.nn.Module:
    refractory_s = REFRACTORY_SAMPLES / RATE_HZ
    return dsp.EventCounter(0.5, 0.5, refractory_s=refractory_s, sample_rate_hz=RATE_HZ)


def leak_loop(x: Tensor, learned: Tensor) -> Tensor:
    """A recursion that no block has: a leak that grows with the level. learned: rate, bend."""
    rate, bend = learned
    level, levels = x.new_zeros(x.shape[:-1]), []
    for sample in x.unbind(-1):
        level = level + rate * (sample - torch.tanh(bend * level))
        levels.append(level)
    return torch.stack(levels, -1)


def leak_block() -> torch.nn.Module:
    """The same as a block."""

    def step(x: Tensor, level: Tensor, rate: Tensor, bend: Tensor) -> Tensor:
        return level + rate * (x - torch.tanh(bend * level))

    return dsp.Recurrence(step, parameters={"rate": 0.1, "bend": 2.0})


def leak_scan(x: Tensor, learned: Tensor) -> Tensor:
    """The same through `scan`."""
    from torch._higher_order_ops import scan

    rate, bend = (value.clone() for value in learned)  # scan refuses views of one tensor

    def step(level: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        level = level + rate * (sample - torch.tanh(bend * level))
        return level, level.clone()

    levels: Tensor = scan(step, x.new_zeros(x.shape[:-1]), x.movedim(-1, 0), dim=0)[1]
    return levels.movedim(0, -1)


# Ways to train a user's own recursion; the plain loop is what they are compared with.
RECURSIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "loop": leak_loop,
    "torch's scan": leak_scan,
}
