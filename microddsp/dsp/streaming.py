"""Where a block's state lives: nowhere (offline), in buffers (streaming), or with the caller."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from microddsp.dsp.block import Block

PREFIX = "state_"


class Store(Protocol):
    """Keeps the states of blocks between chunks."""

    def read(self, block: Block, initial: dict[str, Tensor]) -> dict[str, Tensor]: ...

    def write(self, block: Block, state: dict[str, Tensor]) -> None: ...


class _Active(threading.local):
    def __init__(self) -> None:
        self.stores: dict[int, Store] = {}


_ACTIVE = _Active()


def store_of(block: torch.nn.Module) -> Store | None:
    """The store that a block must use now in this thread; None: offline."""
    return _ACTIVE.stores.get(id(block))


def is_streaming(block: torch.nn.Module) -> bool:
    """Whether a block continues a stream, as it does on the device."""
    return store_of(block) is not None


class _Buffers:
    """State in non-persistent buffers of the block itself: what the compiler lifts."""

    def read(self, block: Block, initial: dict[str, Tensor]) -> dict[str, Tensor]:
        for key, value in initial.items():
            if PREFIX + key not in block._buffers:
                block.register_buffer(PREFIX + key, value.clone(), persistent=False)
        return {key: block.get_buffer(PREFIX + key) for key in initial}

    def write(self, block: Block, state: dict[str, Tensor]) -> None:
        for key, value in state.items():
            block.get_buffer(PREFIX + key).copy_(value.detach())


class _Given:
    """State in a dictionary of the caller: `step`."""

    def __init__(self, names: dict[int, str], state: dict[str, Tensor]) -> None:
        self._names = names
        self.state = state

    def read(self, block: Block, initial: dict[str, Tensor]) -> dict[str, Tensor]:
        path = self._names[id(block)]
        return {key: self.state.get(f"{path}.{key}", value) for key, value in initial.items()}

    def write(self, block: Block, state: dict[str, Tensor]) -> None:
        path = self._names[id(block)]
        self.state.update({f"{path}.{key}": value for key, value in state.items()})


def _blocks(module: torch.nn.Module) -> dict[int, tuple[str, Block]]:
    from microddsp.dsp.block import Block

    return {
        id(inner): (path, inner)
        for path, inner in module.named_modules()
        if isinstance(inner, Block)
    }


@contextmanager
def _using(store: Store, blocks: dict[int, tuple[str, Block]]) -> Iterator[None]:
    before = dict(_ACTIVE.stores)
    _ACTIVE.stores = before | dict.fromkeys(blocks, store)
    try:
        yield
    finally:
        _ACTIVE.stores = before


@contextmanager
def streaming(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Inside, calls of `module` continue one stream, as on the device; outside they do not.

    Blocks keep their state in buffers `state_<name>`, made at the first call and gone at the end.
    It holds for this module and this thread.
    """
    blocks = _blocks(module)
    before = {
        key: {n for n in b._buffers if n.startswith(PREFIX)} for key, (_, b) in blocks.items()
    }
    with _using(_Buffers(), blocks):
        try:
            yield module
        finally:
            for key, (_, block) in blocks.items():
                for name in [n for n in block._buffers if n.startswith(PREFIX)]:
                    if name not in before[key]:
                        del block._buffers[name]
                        block._non_persistent_buffers_set.discard(name)


def reset(module: torch.nn.Module) -> None:
    """Inside `streaming`: forget the signal seen so far. States start again at the next call."""
    for _, block in _blocks(module).values():
        for name in [n for n in block._buffers if n.startswith(PREFIX)]:
            initial = block.start_of(name.removeprefix(PREFIX))
            buffer = block.get_buffer(name)
            with torch.no_grad():
                buffer.copy_(torch.as_tensor(initial, dtype=buffer.dtype).expand_as(buffer))


def step(
    module: torch.nn.Module, x: Any, state: dict[str, Tensor] | None = None
) -> tuple[Any, dict[str, Tensor]]:
    """One chunk of a stream, with the state in the caller's hand: pure and differentiable.

    Args:
        module: A pipeline of blocks; buffers that its own modules change are part of the state.
        x: A chunk (..., channels, samples), or a tuple of inputs.
        state: What the last call returned; None at the start of a signal.

    Returns:
        What the module returns, and the state after the chunk.
    """
    blocks = _blocks(module)
    known = dict(state or {})
    given = _Given({key: path for key, (path, _) in blocks.items()}, known)
    buffers = {
        name: known.get(name, value).clone()
        for name, value in module.named_buffers()
        if not name.rpartition(".")[2].startswith(PREFIX)
    }
    arguments = x if isinstance(x, tuple) else (x,)
    with _using(given, blocks):
        y = torch.func.functional_call(module, buffers, arguments)
    return y, given.state | buffers
