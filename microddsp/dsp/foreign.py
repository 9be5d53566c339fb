"""Filters of torchaudio in a stream: they keep no state, so each call gets one of ours.

Only calls inside the `forward` of a module that streams are changed; a whole signal goes through
torchaudio itself.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, zeros
from microddsp.dsp.filter import decay_of
from microddsp.dsp.streaming import store_of
from microddsp.errors import SignalError
from microddsp.relax_ops.factored import factored

_MODULE = "torchaudio.functional.filtering"
_NAME = "torchaudio_lfilter_"
_OURS = "_microddsp_original"


class _Running(threading.local):
    def __init__(self) -> None:
        self.calls: list[_Calls] = []


_RUNNING = _Running()


class Lfilter(Block):
    """The n-th call of `torchaudio.functional.lfilter` in a forward."""

    def __init__(self) -> None:
        super().__init__()
        self._settle = 0

    def filter(self, x: Tensor, sections: Tensor) -> Tensor:
        """Continue the stream: x (rows, samples), sections (count, 5) or (rows, count, 5)."""
        if type(sections) is Tensor:  # no stand-in of a trace
            self._settle = decay_of("sos", sections.detach().double())
        store = store_of(self)
        assert store is not None
        z = store.read(self, {"z": zeros(x, sections.shape[-2], 2)})["z"]
        if z.shape[:-2] != x.shape[:-1]:
            raise SignalError(
                f"a filter of torchaudio saw {z.shape[0]} rows of signal before, now {x.shape[0]}",
                hint="reset the stream, or give chunks of one shape",
            )
        y, following = relax_ops.sos(x, sections, z)
        store.write(self, {"z": following})
        return y

    @property
    def settle_samples(self) -> int:
        return self._settle


class _Calls:
    """Gives each call in a forward its own block, by the order of calls."""

    def __init__(self, module: torch.nn.Module, adopt: Callable[[Block, str], None]) -> None:
        self._module, self._adopt = module, adopt
        self._made: list[Lfilter] = []
        self._at = 0
        self._expected: int | None = None

    def begin(self, *_: object) -> None:
        self._at = 0
        _RUNNING.calls.append(self)

    def end(self, *_: object) -> None:
        _RUNNING.calls.pop()
        if self._expected is None:
            self._expected = self._at
        elif sys.exc_info()[0] is None and self._at != self._expected:
            raise SignalError(
                f"torchaudio's lfilter was called {self._expected} times per chunk, now {self._at}",
                hint="in a stream every chunk takes the same way",
            )

    def next(self) -> Lfilter:
        if self._at == len(self._made):
            block = Lfilter()
            name = f"{_NAME}{self._at}"
            self._made.append(block)
            self._module.add_module(name, block)
            self._adopt(block, name)
        self._at += 1
        return self._made[self._at - 1]

    def remove(self) -> None:
        for at in range(len(self._made)):
            delattr(self._module, f"{_NAME}{at}")


def is_call(path: str) -> bool:
    """Whether a state belongs to a call of torchaudio."""
    return path.startswith(_NAME)


@contextmanager
def carried(module: torch.nn.Module, adopt: Callable[[Block, str], None]) -> Iterator[None]:
    """Inside, the filters that `module.forward` calls continue their streams.

    `adopt` is told of each block that is made for one, with its name.
    """
    filtering = sys.modules.get(_MODULE)
    if filtering is None:
        yield
        return
    _install(filtering)
    calls = _Calls(module, adopt)
    hooks = [
        module.register_forward_pre_hook(calls.begin),
        module.register_forward_hook(calls.end, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        calls.remove()


def _install(filtering: Any) -> None:
    """Once: the function under `lfilter` and all biquads asks whether a stream is running."""
    if hasattr(filtering, _OURS):
        return
    original = filtering._lfilter

    def lfilter(waveform: Tensor, a_coeffs: Tensor, b_coeffs: Tensor) -> Tensor:
        if not _RUNNING.calls:
            return original(waveform, a_coeffs, b_coeffs)
        return _continued(_RUNNING.calls[-1].next(), waveform, a_coeffs, b_coeffs)

    setattr(filtering, _OURS, original)
    filtering._lfilter = lfilter


def _continued(block: Lfilter, waveform: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """As torchaudio's: waveform (batch, filters, samples), a and b (filters, order + 1)."""
    batch, filters, samples = waveform.shape
    # `verify` asks for float64, where coefficients in plain attributes stay what they are
    a, b = a.to(waveform), b.to(waveform)
    sections = factored(b / a[:, :1], a / a[:, :1])
    if filters == 1:
        sections = sections[0]
    elif batch > 1:
        sections = sections.repeat(batch, 1, 1)
    y = block.filter(waveform.reshape(batch * filters, samples), sections)
    return y.reshape(batch, filters, samples)
