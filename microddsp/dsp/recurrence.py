"""Any recursion over samples, written as a Python function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, positive, show
from microddsp.errors import ParameterError
from microddsp.relax_ops.scalar_step import scalar_step
from microddsp.relax_ops.scan import scan
from microddsp.relax_ops.step_graph import StepGraph, trace

Step = Callable[..., Any]
Start = float | Tensor | Mapping[str, float | Tensor]
PACKED = "values"


class _Traced:
    """Graphs by shape: no state of the module, and not part of its copies."""

    def __init__(self) -> None:
        self.graphs: dict[Any, StepGraph] = {}
        self.texts: dict[StepGraph, str | None] = {}

    def __reduce__(self) -> tuple[type[_Traced], tuple[()]]:
        return _Traced, ()


class Recurrence(Block):
    """y[n], state[n] = step(x[n], state[n-1]): feedback of any kind, as a Python function.

    The step gets one sample `x` of shape (channels,) and the state before it, and returns the
    output, (channels out,), and the state after it; a step that returns one tensor gives it as
    both. It is ordinary torch, but may not choose by values: `torch.where`, not `if`. It is traced
    once per shape and mode (training or not): numbers that it reads from outside are then fixed.

        # leaky integrator with a learned leak
        dsp.Recurrence(lambda x, y, leak: x + leak * y, parameters={"leak": 0.9})

    What depends on parameters only is computed once per block, not once per sample. A formula of
    a few numbers runs in training as a compiled kernel with a compiled adjoint, and on the device
    in one loop with its neighbours, the state in registers. Up to 8 channels may meet in it; it
    then has a loop of its own. Anything else (matrices, delay lines) runs in torch sample by
    sample, and on the device as a loop over its tensors.

    Args:
        step: `step(x, state, **parameters)`, or a torch.nn.Module called as `step(x, state)`.
        state: Where the state starts: a number (one per channel), a tensor of any shape, or a
            dictionary of both, which the step then gets and returns. A torch.nn.Parameter learns.
        parameters: Learned numbers or tensors by name, given to the step by name.
        settle_s: Seconds until the start is forgotten; only told to who feeds the model.
        sample_rate_hz: Samples per second; needed for `settle_s` only.

    Raises:
        ParameterError: A step that chooses by values, gives a state of another shape or type, or
            uses parameters that are not its arguments.

    Source: the operator ~ of Faust, Y. Orlarey et al., "Syntactical and semantical aspects of
    Faust", Soft Computing 8 (2004); torch.scan.
    """

    def __init__(
        self,
        step: Step,
        state: Start = 0.0,
        *,
        parameters: Mapping[str, float | Tensor] | None = None,
        settle_s: float = 0.0,
        sample_rate_hz: float | None = None,
    ) -> None:
        super().__init__()
        if not callable(step):
            raise ParameterError(f"step must be a function, got {step!r}", where="Recurrence")
        if settle_s < 0:
            raise ParameterError(f"settle_s must not be negative: {settle_s}", where="Recurrence")
        if sample_rate_hz is not None:
            positive("sample_rate_hz", sample_rate_hz, "Recurrence")
        elif settle_s:
            raise ParameterError("settle_s needs sample_rate_hz", where="Recurrence")
        self.step = step
        self.sample_rate_hz = None if sample_rate_hz is None else float(sample_rate_hz)
        self.settle_s = float(settle_s)
        self.parameter_names = tuple(parameters or {})
        for name, value in (parameters or {}).items():
            if not name.isidentifier() or hasattr(self, name):
                raise ParameterError(f"{name!r} cannot name a parameter", where="Recurrence")
            self.register_parameter(name, torch.nn.Parameter(_tensor(name, value)))
        self.named = isinstance(state, Mapping)
        starts = dict(state) if isinstance(state, Mapping) else {"state": state}
        if not starts:
            raise ParameterError("a recurrence needs a state", where="Recurrence")
        self.keys = tuple(starts)
        self._starts: dict[str, Tensor] = {}
        for key, value in starts.items():
            self._hold(key, value)
        self._traced = _Traced()

    def _hold(self, key: str, value: float | Tensor) -> None:
        if not key.isidentifier() or key == PACKED:
            raise ParameterError(f"{key!r} cannot name a state", where="Recurrence")
        tensor = value if isinstance(value, torch.nn.Parameter) else _tensor(key, value)
        if isinstance(tensor, torch.nn.Parameter):
            self.register_parameter(f"start_{key}", tensor)
        else:
            self._starts[key] = tensor

    def _given_start(self, key: str) -> Tensor:
        return self._starts[key] if key in self._starts else getattr(self, f"start_{key}")

    def _start(self, key: str, x: Tensor) -> Tensor:
        """Of one signal shaped like `x`, without batch."""
        value = self._given_start(key)
        if value.is_floating_point():
            value = value.to(x)
        return _one_per_channel(value, x.shape[-2])

    def _arguments(self, x: Tensor) -> dict[str, Tensor]:
        """All that the step is called with besides sample and state, in the signal's precision."""
        own = {name: getattr(self, name) for name in self.parameter_names}
        if isinstance(self.step, torch.nn.Module):
            inside = (*self.step.named_parameters(), *self.step.named_buffers())
            own |= {f"step.{name}": value for name, value in inside}
        return {k: v.to(x) if v.is_floating_point() else v for k, v in own.items()}

    def _graph(self, x: Tensor) -> StepGraph:
        arguments = self._arguments(x)
        inner = self.step.modules() if isinstance(self.step, torch.nn.Module) else ()
        modes = tuple(module.training for module in inner)
        key = (x.shape[-2], x.dtype, modes, *(v.shape for v in arguments.values()))
        if key not in self._traced.graphs:

            def flat(
                sample: Tensor, before: Sequence[Tensor], given: Sequence[Tensor]
            ) -> tuple[Tensor, list[Tensor]]:
                named = dict(zip(arguments, given, strict=True))
                return self._results(self._call(sample, before, named), before)

            states = [self._start(name, x) for name in self.keys]
            sample = x.new_zeros(x.shape[-2])
            self._traced.graphs[key] = trace(flat, sample, states, list(arguments.values()))
        return self._traced.graphs[key]

    def _call(self, sample: Tensor, before: Sequence[Tensor], given: dict[str, Tensor]) -> Any:
        """The user's step, with the state in the form that it was declared in."""
        state: Any = dict(zip(self.keys, before, strict=True)) if self.named else before[0]
        keyword = {name: given.pop(name) for name in self.parameter_names}
        if not isinstance(self.step, torch.nn.Module):
            return self.step(sample, state, **keyword)
        inside = {name.removeprefix("step."): value for name, value in given.items()}
        return torch.func.functional_call(self.step, inside, (sample, state), keyword)

    def _results(self, result: Any, before: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """What a step returned as output and states, checked."""
        y, after = result if isinstance(result, tuple) and len(result) == 2 else (result, result)
        if self.named:
            if not isinstance(after, Mapping) or set(after) != set(self.keys):
                raise ParameterError(
                    f"the step must return (output, states) with the states {list(self.keys)}",
                    where=self._where(),
                )
            following = [after[key] for key in self.keys]
        else:
            following = [after]
        for key, old, new in zip(self.keys, before, following, strict=True):
            if not isinstance(new, Tensor) or (new.shape, new.dtype) != (old.shape, old.dtype):
                raise ParameterError(
                    f"state {key!r} goes in as {_words(old)} and comes out as {_words(new)}",
                    where=self._where(),
                )
        if not isinstance(y, Tensor) or y.dim() != 1:
            raise ParameterError(
                f"the output of a step is one sample (channels,), not {_words(y)}",
                where=self._where(),
            )
        return y, following

    def _where(self) -> str:
        """The user's step."""
        target = self.step.forward if isinstance(self.step, torch.nn.Module) else self.step
        code = getattr(inspect.unwrap(target), "__code__", None)
        return f"{code.co_filename}:{code.co_firstlineno}" if code else "Recurrence"

    def _program(self, x: Tensor) -> str | None:
        """The step as a formula, or None."""
        graph, texts = self._graph(x), self._traced.texts
        if graph not in texts:
            step = scalar_step(graph.body, len(self.keys), x.shape[-2])
            texts[graph] = None if step is None else relax_ops.recurrence_text(step)
        return texts[graph]

    def _each(self, x: Tensor) -> bool:
        """Whether the formula is that of every channel, and not of all together."""
        text = self._program(x)
        return x.shape[-2] > 1 and text is not None and not relax_ops.is_joint(text)

    def initial_state(self, x: Tensor) -> State:
        starts = {key: self._start(key, x) for key in self.keys}
        if self._program(x) is None:
            return {key: value.expand(*x.shape[:-2], *value.shape) for key, value in starts.items()}
        packed = _side_by_side(list(starts.values()), self._each(x))
        return {PACKED: packed.expand(*x.shape[:-2], *packed.shape)}

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        graph, text = self._graph(x), self._program(x)
        coefficients = graph.prelude(*self._arguments(x).values())
        if text is None:
            y, following = scan(
                graph.body, x, [state[key] for key in self.keys], list(coefficients)
            )
            return y, dict(zip(self.keys, following, strict=True))
        y, packed = relax_ops.recurrence(
            x, _packed(coefficients, x, self._each(x)), state[PACKED].contiguous(), text
        )
        return y, {PACKED: packed}

    @property
    def settle_samples(self) -> int:
        return round(self.settle_s * (self.sample_rate_hz or 0.0))

    def start_of(self, key: str) -> float | Tensor:
        if key != PACKED:
            return self._given_start(key).detach()
        channels, width = self.get_buffer(f"state_{PACKED}").shape[-2:]
        starts = [self._given_start(k).detach() for k in self.keys]
        each, open_ended = channels > 1, sum(v.dim() == 0 for v in starts)
        if not each and open_ended:  # the channels of one signal lie side by side
            channels = (width - sum(v.numel() for v in starts if v.dim())) // open_ended
        return _side_by_side([_one_per_channel(v, channels) for v in starts], each)

    def extra_repr(self) -> str:
        target = type(self.step) if isinstance(self.step, torch.nn.Module) else self.step
        shown = [getattr(target, "__name__", type(target).__name__)]
        shown += [f"{name}={show(getattr(self, name))}" for name in self.parameter_names]
        return ", ".join(shown)


def _one_per_channel(value: Tensor, channels: int) -> Tensor:
    return value.expand(channels) if value.dim() == 0 else value


def _side_by_side(values: Sequence[Tensor], each: bool) -> Tensor:
    """States of a formula: (channels, count), or (1, count) if it is not that of each channel."""
    return torch.cat([v[:, None] if each else v.reshape(1, -1) for v in values], -1)


def _packed(coefficients: Sequence[Tensor], x: Tensor, each: bool) -> Tensor:
    """The coefficients of a formula: (count,), or (channels, count) if channels have their own."""
    if not coefficients:
        return x.new_zeros(1)
    channels = x.shape[-2]
    if not each:
        return torch.cat([c.reshape(-1) for c in coefficients])
    if all(c.dim() == 0 for c in coefficients):
        return torch.stack(list(coefficients))
    return torch.stack([c.expand(channels) for c in coefficients], -1)


def _words(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__


def _tensor(name: str, value: float | Tensor) -> Tensor:
    try:
        tensor = torch.as_tensor(value).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ParameterError(
            f"{name} must be a number or a tensor, got {value!r}", where="Recurrence"
        ) from error
    if tensor.is_floating_point() or isinstance(value, int):
        tensor = tensor.to(torch.float32)
        if not bool(torch.isfinite(tensor).all()):
            raise ParameterError(f"{name} is not finite", where="Recurrence")
    return tensor
