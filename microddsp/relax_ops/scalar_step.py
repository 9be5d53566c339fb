"""Graphs of a few numbers as steps: what a loop of the device keeps in registers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from microddsp.relax_ops.expression import Expr, Step, constant, in_order, leaf
from microddsp.relax_ops.scalar_rules import (
    REARRANGING,
    RULES,
    Array,
    NoFormulaError,
    is_truth,
    number,
)

# Larger steps become loops over their tensors: unrolled they would fill the flash.
LARGEST = 200
MOST_STATES = 16
MOST_CHANNELS = 8


def scalar_step(body: fx.GraphModule, states: int, channels: int) -> Step | None:
    """The step of one channel, or of all together if they meet; None if the graph is neither.

    Where each channel is for itself every value has one number per channel, or one for all.
    """
    tries = [_Reader(channels, each=True)] if channels > 1 else []
    if channels <= MOST_CHANNELS:
        tries.append(_Reader(channels, each=False))
    for reader in tries:
        try:
            return reader.read(body, states)
        except NoFormulaError:
            continue
    return None


class _Reader:
    """`each`: values are seen by one channel, else all their numbers are told apart."""

    def __init__(self, channels: int, *, each: bool) -> None:
        self.channels, self.each = channels, each

    def read(self, body: fx.GraphModule, states: int) -> Step:
        values: dict[fx.Node, Array] = {}
        inputs = [n for n in body.graph.nodes if n.op == "placeholder"]
        groups: list[list[Expr]] = [[], [], []]  # states, input, coefficients
        for i, node in enumerate(inputs):
            group = 0 if i < states else 1 if i == states else 2
            values[node] = self._leaves(node, "zxp"[group], groups[group])
        for node in body.graph.nodes:
            if node.op == "get_attr":
                values[node] = self._constant(getattr(body, str(node.target)))
            elif node.op == "call_function":
                values[node] = self._call(node, values)
            elif node.op == "output":
                following = [self._result(n, values) for n in node.args[0][:-1]]
                output = self._result(node.args[0][-1], values)
        nexts = tuple(e for array in following for e in array.flat)
        outputs = tuple(output.flat)
        if not outputs or len(outputs) > (1 if self.each else MOST_CHANNELS):
            raise NoFormulaError
        if len(nexts) != len(groups[0]) or len(nexts) > MOST_STATES:
            raise NoFormulaError
        if len(in_order([*outputs, *nexts])) > LARGEST:
            raise NoFormulaError
        if not groups[2]:
            groups[2].append(leaf("p0"))  # tensors of nothing have no kernels
        z, x, p = (tuple(group) for group in groups)
        return Step(x, p, z, outputs, nexts)

    def _shape(self, value: Any) -> tuple[int, ...]:
        """Of a tensor, as one channel sees it."""
        if not isinstance(value, Tensor):
            raise NoFormulaError
        if value.dtype not in (torch.float32, torch.float64, torch.bool):
            raise NoFormulaError
        shape = tuple(int(n) for n in value.shape)
        if not self.each:
            return shape
        if shape not in ((), (self.channels,)):
            raise NoFormulaError
        return tuple(1 for _ in shape)

    def _leaves(self, node: fx.Node, letter: str, group: list[Expr]) -> Array:
        value = node.meta["val"]
        if value.dtype == torch.bool or value.numel() > LARGEST:
            raise NoFormulaError
        array: Array = np.empty(self._shape(value), object)
        for index in np.ndindex(array.shape):
            array[index] = leaf(f"{letter}{len(group)}")
            group.append(array[index])
        return array

    def _constant(self, value: Tensor) -> Array:
        if self.each and value.dim() > 0 and not bool((value == value.flatten()[0]).all()):
            raise NoFormulaError
        array: Array = np.empty(self._shape(value), object)
        for index in np.ndindex(array.shape):
            array[index] = constant(float(value[index]))
        return array

    def _result(self, node: Any, values: dict[fx.Node, Array]) -> Array:
        if not isinstance(node, fx.Node) or node.meta["val"].dtype == torch.bool:
            raise NoFormulaError
        return values[node]

    def _call(self, node: fx.Node, values: dict[fx.Node, Array]) -> Array:
        rule = RULES.get(node.target) or (None if self.each else REARRANGING.get(node.target))
        if rule is None:
            raise NoFormulaError
        args = fx.node.map_arg(node.args, lambda n: values[n])
        kwargs = dict(fx.node.map_arg(node.kwargs, lambda n: values[n]))
        shape = self._shape(node.meta["val"])
        made = np.asarray(rule(*args, **kwargs), object)
        array: Array = np.empty(shape, object)
        array[...] = np.broadcast_to(made, shape)
        logical = node.meta["val"].dtype == torch.bool
        for index in np.ndindex(shape):
            if logical and not is_truth(array[index]):
                raise NoFormulaError
            array[index] = array[index] if logical else number(array[index])
        return array
