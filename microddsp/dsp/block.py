"""The contract of every block: a pure step over a chunk of signal, from which all modes follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from microddsp.dsp.streaming import store_of
from microddsp.errors import MicroddspError, ParameterError, SignalError

State = dict[str, Tensor]
DESIGN_PREFIX = "design_"


class Block(torch.nn.Module):
    """A differentiable signal-processing block on signals (..., channels, samples).

    Called plainly it runs a whole signal from its initial state and keeps nothing. Inside
    `microddsp.streaming(module)` it continues where the last call ended.
    """

    sample_rate_hz: float | None = None
    _version = 1  # of the parametrisation; stored with every state_dict

    def design(self) -> dict[str, Tensor]:
        """What depends on parameters only, float64: filter coefficients, thresholds."""
        return {}

    def designed(self, key: str) -> Tensor:
        """An item of `design`; the compiler fixes them once, everybody else computes them."""
        known = self._buffers.get(DESIGN_PREFIX + key)
        return known if known is not None else self.design()[key]

    def initial_state(self, x: Tensor) -> State:
        """State before the first sample of a signal shaped like `x`."""
        return {}

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Output for a chunk and the state after it; pure and differentiable."""
        raise NotImplementedError(f"{type(self).__name__} must define process")

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, self.process)

    def run(self, x: Tensor, process: Callable[[Tensor, State], tuple[Tensor, State]]) -> Tensor:
        """`forward` with another `process`: for blocks that take more signals than one."""
        self.check_signal(x)
        store = store_of(self)
        if store is None:
            return process(x, self.initial_state(x))[0]
        y, following = process(x, store.read(self, self.initial_state(x)))
        store.write(self, following)
        return y

    def start_of(self, key: str) -> float | Tensor:
        """The value that state `key` starts from; zero unless a block says otherwise."""
        return 0.0

    @property
    def settle_samples(self) -> int:
        """Samples until the start transient has faded to 1 %."""
        return 0

    def check(self) -> None:
        """Refuse parameters that are not finite.

        Raises:
            ParameterError: Names the parameter.
        """
        for name, value in self.named_parameters():
            if not bool(torch.isfinite(value).all()):
                raise ParameterError(f"parameter {name} is not finite", where=type(self).__name__)

    def check_signal(self, x: Tensor) -> None:
        """Refuse what is no signal.

        Raises:
            SignalError: Not (..., channels, samples) of float32 or float64.
        """
        if x.dim() < 2:
            raise SignalError(
                f"a signal is (..., channels, samples), got shape {tuple(x.shape)}",
                where=type(self).__name__,
                hint="add a channel axis: x[None]",
            )
        if not x.is_floating_point():
            raise SignalError(
                f"a signal is float32 or float64, got {x.dtype}", where=type(self).__name__
            )

    def __repr__(self) -> str:
        """One line in physical units; the parametrisation inside is no user's business."""
        return f"{type(self).__name__}({self.extra_repr()})"

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        *args: Any,
    ) -> None:
        version = local_metadata.get("version")
        if version is None or version > self._version:
            raise MicroddspError(
                f"{type(self).__name__} at {prefix or 'the top'} has parametrisation version "
                f"{version}, this microddsp reads up to {self._version}",
                hint="save the state_dict with torch.save as it is; a newer one needs a newer "
                "microddsp",
            )
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


@contextmanager
def fixed_designs(module: torch.nn.Module) -> Iterator[None]:
    """Inside, blocks take their designs from buffers computed now: a graph traced here holds
    constants where the design formulas were."""
    blocks = [inner for inner in module.modules() if isinstance(inner, Block)]
    try:
        for block in blocks:
            for key, value in block.design().items():
                block.register_buffer(DESIGN_PREFIX + key, value.detach(), persistent=False)
        yield
    finally:
        for block in blocks:
            for name in [n for n in block._buffers if n.startswith(DESIGN_PREFIX)]:
                del block._buffers[name]
                block._non_persistent_buffers_set.discard(name)


def zeros(x: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """A zero state for the rows of `x`: (..., channels, *shape)."""
    return x.new_zeros((*x.shape[:-1], *shape), dtype=dtype or x.dtype)


def positive(name: str, value: float | Sequence[float], where: str) -> Tensor:
    """A positive number, or one per channel, as float64.

    Raises:
        ParameterError: Not a positive finite number.
    """
    tensor = torch.as_tensor(value, dtype=torch.float64)
    if tensor.dim() > 1 or not tensor.numel():
        raise ParameterError(f"{name} is one number or one per channel", where=where)
    if not bool(((tensor > 0) & torch.isfinite(tensor)).all()):
        raise ParameterError(f"{name} must be positive and finite, got {value}", where=where)
    return tensor


def whole(name: str, value: int, where: str, *, least: int = 1) -> int:
    """A whole number from `least`.

    Raises:
        ParameterError: Something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0:
        raise ParameterError(f"{name} must be a whole number, got {value!r}", where=where)
    if value < least:
        raise ParameterError(f"{name} must be at least {least}, got {value}", where=where)
    return int(value)


def decay_samples(time_s: float, sample_rate_hz: float) -> int:
    """Samples in which an exponential of this time constant falls to 1 %."""
    return math.ceil(math.log(100.0) * time_s * sample_rate_hz)


def show(value: Tensor) -> str:
    """Learned numbers for a person: four digits."""
    numbers = [f"{v:.4g}" for v in value.detach().double().flatten().tolist()]
    return numbers[0] if value.dim() == 0 else f"[{', '.join(numbers)}]"
