"""Filters of torchaudio in a stream: they keep no state, so each call gets one.

Only calls inside the `forward` of a module that streams are changed; a whole signal goes through
torchaudio itself.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import zeros
from microddsp.dsp.filter import decay_of
from microddsp.errors import SignalError
from microddsp.relax_ops.factored import factored

_MODULE = "torchaudio.functional.filtering"
PREFIX = "state_torchaudio_"
_OURS = "_microddsp_original"


class States(Protocol):
    """Where the states of calls are kept, by name."""

    def read(self, name: str, initial: Tensor) -> Tensor: ...

    def write(self, name: str, value: Tensor) -> None: ...


class InBuffers:
    """In buffers of the module that streams: what the compiler lifts.

    They are buffers and no modules, for a `Sequential` would call those.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module

    def read(self, name: str, initial: Tensor) -> Tensor:
        if name not in self._module._buffers:
            self._module.register_buffer(name, initial, persistent=False)
        return self._module.get_buffer(name)

    def write(self, name: str, value: Tensor) -> None:
        self._module.get_buffer(name).copy_(value.detach())


class InDictionary:
    """In a dictionary of the caller."""

    def __init__(self, states: dict[str, Tensor]) -> None:
        self._states = states

    def read(self, name: str, initial: Tensor) -> Tensor:
        return self._states.get(name, initial)

    def write(self, name: str, value: Tensor) -> None:
        self._states[name] = value


class _Calls:
    """The calls in one forward, known by their order."""

    def __init__(self, states: States) -> None:
        self._states = states
        self._at = 0
        self._expected: int | None = None
        self.settle: dict[int, int] = {}

    def begin(self, *_: object) -> None:
        self._at = 0
        _RUNNING.calls.append(self)

    def end(self, *_: object) -> None:
        _RUNNING.calls.pop()
        if sys.exc_info()[0] is not None:
            return
        if self._expected is None:
            self._expected = self._at
        elif self._at != self._expected:
            raise SignalError(
                f"torchaudio's lfilter was called {self._expected} times per chunk, now {self._at}",
                hint="in a stream every chunk takes the same way",
            )

    def filter(self, x: Tensor, sections: Tensor) -> Tensor:
        """Continue the next call: x (rows, samples), sections (count, 5) or (rows, count, 5)."""
        if type(sections) is Tensor:  # no stand-in of a trace
            self.settle[self._at] = decay_of("sos", sections.detach().double())
        name = f"{PREFIX}{self._at}"
        self._at += 1
        z = self._states.read(name, zeros(x, sections.shape[-2], 2))
        if z.shape[:-2] != x.shape[:-1]:
            raise SignalError(
                f"a filter of torchaudio saw {z.shape[0]} rows of signal before, now {x.shape[0]}",
                hint="reset the stream, or give chunks of one shape",
            )
        y, following = relax_ops.sos(x, sections, z)
        self._states.write(name, following)
        return y


class _Running(threading.local):
    def __init__(self) -> None:
        self.calls: list[_Calls] = []  # forwards that run now, the innermost last
        self.streams: dict[int, _Calls] = {}


_RUNNING = _Running()


@contextmanager
def carried(module: torch.nn.Module, states: States) -> Iterator[None]:
    """Inside, the filters that `module.forward` calls continue their streams."""
    filtering = sys.modules.get(_MODULE)
    if filtering is None:
        yield
        return
    _install(filtering)
    calls = _Calls(states)
    before = set(module._buffers)
    outer = _RUNNING.streams.get(id(module))
    _RUNNING.streams[id(module)] = calls
    hooks = [
        module.register_forward_pre_hook(calls.begin),
        module.register_forward_hook(calls.end, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        del _RUNNING.streams[id(module)]
        if outer is not None:
            _RUNNING.streams[id(module)] = outer
        for name in [n for n in module._buffers if n.startswith(PREFIX) and n not in before]:
            del module._buffers[name]
            module._non_persistent_buffers_set.discard(name)


def reset_calls(module: torch.nn.Module) -> None:
    """Forget what the filters heard."""
    with torch.no_grad():
        for name, value in module._buffers.items():
            if name.startswith(PREFIX) and value is not None:
                value.zero_()


def settle_samples(module: torch.nn.Module) -> int:
    """Samples until the start transients of the calls in a streaming module have faded to 1 %."""
    calls = _RUNNING.streams.get(id(module))
    return sum(calls.settle.values()) if calls else 0


def _install(filtering: Any) -> None:
    """Once: the function under `lfilter` and all biquads asks whether a stream is running."""
    if hasattr(filtering, _OURS):
        return
    original = filtering._lfilter

    def lfilter(waveform: Tensor, a_coeffs: Tensor, b_coeffs: Tensor) -> Tensor:
        if not _RUNNING.calls:
            return original(waveform, a_coeffs, b_coeffs)
        return _continued(_RUNNING.calls[-1], waveform, a_coeffs, b_coeffs)

    setattr(filtering, _OURS, original)
    filtering._lfilter = lfilter


def _continued(calls: _Calls, waveform: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """As torchaudio's: waveform (batch, filters, samples), a and b (filters, order + 1)."""
    batch, filters, samples = waveform.shape
    # `verify` asks for float64, where coefficients in plain attributes stay what they are
    a, b = a.to(waveform), b.to(waveform)
    sections = factored(b / a[:, :1], a / a[:, :1])
    if filters == 1:
        sections = sections[0]
    elif batch > 1:
        sections = sections.repeat(batch, 1, 1)
    y = calls.filter(waveform.reshape(batch * filters, samples), sections)
    return y.reshape(batch, filters, samples)
