"""A band limit that was learned, turned into a lower sample rate for all that follows."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict

import torch

from microddsp.dsp.biquad import Biquad
from microddsp.dsp.block import Block, whole
from microddsp.dsp.butterworth import Bandpass, Bandstop, Highpass, Lowpass
from microddsp.dsp.decimate import Decimate
from microddsp.dsp.envelope import Envelope
from microddsp.dsp.event_counter import EventCounter
from microddsp.dsp.filter import Filter, Frequency
from microddsp.dsp.first_order import DCBlocker, OnePole
from microddsp.dsp.gain import Gain
from microddsp.dsp.mix import Mix
from microddsp.dsp.offset import Offset
from microddsp.errors import ParameterError
from microddsp.training.relaxations import BandLimit

# The new rate holds the cut-off and this much more, where the low-pass has begun to stop.
GUARD = 1.5
_TIMELESS = (Gain, Offset, Mix)
_TUNED = (Biquad, Lowpass, Highpass, Bandpass, Bandstop, OnePole, DCBlocker)


def lower_rate(
    pipeline: torch.nn.Sequential, *, guard: float = GUARD, block: int | None = None
) -> torch.nn.Sequential:
    """A copy in which the `BandLimit` is a low-pass with a decimation, and what follows is made for
    the new rate: the same hertz and seconds.

    The factor is the largest whose half of the new rate is `guard` times the cut-off or more; at 1
    there is no decimation. With `block`, the samples that the device gets at a time, it is the
    largest of those that divide it.

    Raises:
        ParameterError: A guard below 1, or a block that is no positive whole number; not just one
            BandLimit among the pipeline's own parts; a frequency behind it that the new rate cannot
            hold; a block whose parameters are no hertz or seconds.
    """
    places = [i for i, part in enumerate(pipeline) if isinstance(part, BandLimit)]
    if len(places) != 1 or guard < 1.0:
        raise ParameterError(
            f"one BandLimit is expected in the Sequential, found {len(places)}"
            if len(places) != 1
            else f"guard must be at least 1, got {guard}",
            where=type(pipeline).__name__,
        )
    limit = pipeline[places[0]]
    assert isinstance(limit, BandLimit) and limit.sample_rate_hz is not None
    cutoff_hz = float(limit.cutoff_hz.detach().max())
    factor = max(1, math.floor(limit.sample_rate_hz / (2 * guard * cutoff_hz)))
    if block is not None:
        samples = whole("block", block, "lower_rate")
        factor = max(f for f in range(1, min(factor, samples) + 1) if samples % f == 0)
    parts: OrderedDict[str, torch.nn.Module] = OrderedDict()
    for i, (name, part) in enumerate(pipeline.named_children()):
        if i == places[0]:
            plain = limit.lowpass()
            part = torch.nn.Sequential(plain, Decimate(factor)) if factor > 1 else plain
        else:
            part = copy.deepcopy(part)
            if i > places[0] and factor > 1:
                _at_rate(part, factor, name)
        parts[name] = part
    return torch.nn.Sequential(parts)


def _at_rate(module: torch.nn.Module, factor: int, where: str) -> None:
    """Make a module, in place, for a sample rate that is `factor` times lower."""
    if isinstance(module, _TIMELESS):
        return
    if isinstance(module, _TUNED):
        _retune(module, factor, where)
    elif isinstance(module, Envelope | EventCounter):
        assert module.sample_rate_hz is not None
        module.sample_rate_hz /= factor
        if isinstance(module, EventCounter):  # its density is per sample
            with torch.no_grad():
                module.rate.raw.add_(math.log(factor))
    elif isinstance(module, Block) or _own_numbers(module):
        raise ParameterError(
            f"{type(module).__name__} has parameters in samples: it cannot be moved to a lower "
            "rate",
            where=where,
            hint="make it anew for that rate",
        )
    else:
        for name, child in module.named_children():
            _at_rate(child, factor, f"{where}.{name}")


def _own_numbers(module: torch.nn.Module) -> bool:
    """Whether a module has parameters or buffers, those of its parts aside."""
    return bool([*module.parameters(recurse=False), *module.buffers(recurse=False)])


@torch.no_grad()
def _retune(block: Filter, factor: int, where: str) -> None:
    assert block.sample_rate_hz is not None
    low = torch.zeros((), dtype=torch.float64)
    for name, part in block.named_children():
        if not isinstance(part, Frequency):
            continue
        # the upper edge of a band is stored above the lower one, which comes first
        above = low if name == "high" else torch.zeros_like(low)
        hz, nyquist = part(above), part.nyquist / factor
        if not bool((hz < nyquist).all()):
            raise ParameterError(
                f"{float(hz.max()):g} Hz is above half the new sample rate, {nyquist:g} Hz",
                where=f"{where}.{name}",
                hint="the band limit is below what comes after it",
            )
        part.raw.copy_(torch.logit((hz - above) / (nyquist - above)))
        part.nyquist = nyquist
        low = hz
    block.sample_rate_hz /= factor
