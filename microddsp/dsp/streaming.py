"""Where a block's state lives: nowhere (offline), in buffers (streaming), or with the caller."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from microddsp.errors import SignalError

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
        # what the user's own buffers were when the stream of a module began
        self.starts: dict[int, list[tuple[torch.nn.Module, str, Tensor, Tensor]]] = {}


_ACTIVE = _Active()


def store_of(block: torch.nn.Module) -> Store | None:
    """The store that a block must use now in this thread; None: offline."""
    return _ACTIVE.stores.get(id(block))


def is_streaming(block: torch.nn.Module) -> bool:
    """Whether a block continues a stream, as it does on the device."""
    return store_of(block) is not None


class _Once:
    """Notices a block that is used twice in one chunk: both uses would share one state, and a
    stream would not be what the whole signal gives."""

    def __init__(self) -> None:
        self._used: set[int] | None = None

    def begin(self, *_: object) -> None:
        self._used = set()

    def end(self, *_: object) -> None:
        self._used = None

    def note(self, block: Block) -> None:
        if self._used is None:
            return
        if id(block) in self._used:
            raise SignalError(
                "a block with a state is used twice in one chunk",
                where=type(block).__name__,
                hint="give each place a block of its own; they may share parameters",
            )
        self._used.add(id(block))


class _Buffers(_Once):
    """State in non-persistent buffers of the block itself: what the compiler lifts."""

    def read(self, block: Block, initial: dict[str, Tensor]) -> dict[str, Tensor]:
        for key, value in initial.items():
            if PREFIX + key not in block._buffers:
                block.register_buffer(PREFIX + key, value.clone(), persistent=False)
        return {key: block.get_buffer(PREFIX + key) for key in initial}

    def write(self, block: Block, state: dict[str, Tensor]) -> None:
        if state:
            self.note(block)
        for key, value in state.items():
            block.get_buffer(PREFIX + key).copy_(value.detach())


class _Given(_Once):
    """State in a dictionary of the caller: `step`."""

    def __init__(self, names: dict[int, str], state: dict[str, Tensor]) -> None:
        super().__init__()
        self.begin()
        self._names = names
        self.state = state

    def read(self, block: Block, initial: dict[str, Tensor]) -> dict[str, Tensor]:
        path = self._names[id(block)]
        return {key: self.state.get(f"{path}.{key}", value) for key, value in initial.items()}

    def write(self, block: Block, state: dict[str, Tensor]) -> None:
        if state:
            self.note(block)
        path = self._names[id(block)]
        self.state.update({f"{path}.{key}": value for key, value in state.items()})


def _users(module: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """Buffers that are not the states or designs of our blocks."""
    blocks = {path for path, _ in _blocks(module).values()}
    return [
        (name, value)
        for name, value in module.named_buffers()
        if name.rpartition(".")[0] not in blocks
    ]


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
    It holds for this module and this thread. Filters of torchaudio continue too.
    """
    from microddsp.dsp.foreign import InBuffers, carried

    blocks = _blocks(module)
    before = {
        key: {n for n in b._buffers if n.startswith(PREFIX)} for key, (_, b) in blocks.items()
    }
    store = _Buffers()
    hooks = [
        module.register_forward_pre_hook(store.begin),
        module.register_forward_hook(store.end, always_call=True),
    ]
    _ACTIVE.starts[id(module)] = [
        (
            module.get_submodule(name.rpartition(".")[0]),
            name.rpartition(".")[2],
            b,
            b.detach().clone(),
        )
        for name, b in _users(module)
    ]
    with _using(store, blocks), carried(module, InBuffers(module)):
        try:
            yield module
        finally:
            for hook in hooks:
                hook.remove()
            _ACTIVE.starts.pop(id(module), None)
            for key, (_, block) in blocks.items():
                for name in [n for n in block._buffers if n.startswith(PREFIX)]:
                    if name not in before[key]:
                        del block._buffers[name]
                        block._non_persistent_buffers_set.discard(name)


def reset(module: torch.nn.Module) -> None:
    """Inside `streaming`: forget the signal seen so far; the user's own buffers become what they
    were at the start of the stream."""
    from microddsp.dsp.foreign import reset_calls

    reset_calls(module)
    for owner, name, buffer, start in _ACTIVE.starts.get(id(module), []):
        owner._buffers[name] = buffer  # forward may have assigned another tensor
        with torch.no_grad():
            buffer.copy_(start)
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

    Raises:
        SignalError: The state is that of another module.
    """
    from microddsp.dsp.foreign import PREFIX as CALLS
    from microddsp.dsp.foreign import InDictionary, carried

    blocks = _blocks(module)
    known = dict(state or {})
    given = _Given({key: path for key, (path, _) in blocks.items()}, known)
    buffers = {name: known.get(name, value).clone() for name, value in _users(module)}
    paths = {path for path, _ in blocks.values()}
    foreign = [n for n in known if n not in buffers and n.rpartition(".")[0] not in paths]
    foreign = [n for n in foreign if not n.startswith(CALLS)]
    if foreign:
        raise SignalError(
            f"the state has {', '.join(foreign)}, which this module has not",
            hint="give the state that a step of the same pipeline returned",
        )
    arguments = x if isinstance(x, tuple) else (x,)
    with _using(given, blocks), carried(module, InDictionary(given.state)):
        y = torch.func.functional_call(module, buffers, arguments)
    return y, given.state | buffers
