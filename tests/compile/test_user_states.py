"""State in the user's own buffers, in every way that forward may update it, against torch."""

import copy
from collections import deque
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import microddsp

X = torch.randn(2, 24, generator=torch.Generator().manual_seed(0))
BLOCK = 8


class Holds(nn.Module):
    """Buffers, and a function of them and the signal."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **buffers: Tensor) -> None:
        super().__init__()
        self.function = forward
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def check(module: nn.Module) -> None:
    blocks = X.split(BLOCK, -1)
    model = microddsp.compile(module, blocks[0], target="host", name="m")
    ours = copy.deepcopy(module)
    for block in blocks:
        with torch.no_grad(), microddsp.streaming(ours):
            expected = ours(block.clone()).clone()
        got = model.run(block)
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def reassigned(m: Any, x: Tensor) -> Tensor:
    y = x + m.z
    m.z = y[:, -1:]
    return y


def one_value_twice(m: Any, x: Tensor) -> Tensor:
    y = x * 2
    m.a.copy_(y)
    m.b.copy_(y)
    return m.a + m.b


def register_of_three(m: Any, x: Tensor) -> Tensor:
    y = x + m.c + m.b
    m.c.copy_(m.b)
    m.b.copy_(m.a)
    m.a.copy_(x)
    return y


def copied(m: Any, x: Tensor) -> Tensor:
    m.z.copy_(x * 10)
    return x + m.z


def of_integers(m: Any, x: Tensor) -> Tensor:
    m.z.copy_((x * 10).to(torch.int16))
    return x + m.z


def of_first(m: Any, x: Tensor) -> Tensor:
    m.z.copy_(x[:, :1])
    return x + m.z


def of_like_names(m: Any, x: Tensor) -> Tensor:
    m.z.add_(1)
    m._z.add_(10)
    m.state_z.add_(100)
    return x + m.z * m._z * m.state_z


def ones(*names: str, size: int = BLOCK) -> dict[str, Tensor]:
    return {name: torch.full((2, size), float(i + 1)) for i, name in enumerate(names)}


HELD: dict[str, Callable[[], nn.Module]] = {
    "assigned anew": lambda: Holds(reassigned, **ones("z", size=1)),
    "one value in two": lambda: Holds(one_value_twice, **ones("a", "b")),
    "shift register": lambda: Holds(register_of_three, **ones("a", "b", "c")),
    "shift register, other order": lambda: Holds(register_of_three, **ones("c", "b", "a")),
    "floats into integers": lambda: Holds(copied, z=torch.ones(2, BLOCK, dtype=torch.int32)),
    "integers into floats": lambda: Holds(of_integers, **ones("z")),
    "one sample into many": lambda: Holds(of_first, **ones("z")),
    "names that are alike": lambda: Holds(of_like_names, **ones("z", "_z", "state_z", size=1)),
}


@pytest.mark.parametrize("case", HELD)
def test_a_state_of_the_user_streams_as_in_torch(case: str) -> None:
    check(HELD[case]())


def test_a_buffer_that_is_assigned_anew_is_left_as_it_was() -> None:
    module = Holds(reassigned, **ones("z", size=1))
    before = module.get_buffer("z")
    microddsp.compile(module, X[:, :BLOCK], target="host", name="m")
    assert module.get_buffer("z") is before
    assert torch.equal(before, torch.ones(2, 1))


def test_reset_puts_back_a_buffer_that_is_assigned_anew() -> None:
    module = Holds(reassigned, **ones("z", size=1))
    with torch.no_grad(), microddsp.streaming(module):
        first = module(X)
        module(X)
        microddsp.reset(module)
        assert torch.equal(module(X), first)


def test_a_buffer_that_changes_its_shape_is_refused() -> None:
    module = Holds(reassigned, z=torch.ones(1, 1))
    with pytest.raises(microddsp.CompileError, match=r"starts as float32 of shape \(1, 1\)"):
        microddsp.compile(module, X[:, :BLOCK], target="host", name="m")


class Hidden(nn.Module):
    """Keeps something in a plain attribute."""

    def __init__(self, kept: Any, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.kept = kept
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def counts(m: Any, x: Tensor) -> Tensor:
    m.kept += 1
    return x * m.kept


def assigns(m: Any, x: Tensor) -> Tensor:
    m.kept = m.kept + x[:, :1]
    return x + m.kept


def appends(m: Any, x: Tensor) -> Tensor:
    m.kept.append(x[:, :1])
    return x + sum(m.kept)


def replaces(m: Any, x: Tensor) -> Tensor:
    m.kept["z"] = m.kept["z"] + x[:, :1]
    return x + m.kept["z"]


def first_only(m: Any, x: Tensor) -> Tensor:
    started, m.kept = m.kept, True
    return x if started else x * 0


HIDDEN: dict[str, Callable[[], nn.Module]] = {
    "number": lambda: Hidden(0, counts),
    "tensor": lambda: Hidden(torch.zeros(2, 1), assigns),
    "tensor in place": lambda: Hidden(torch.zeros(2, 1), lambda m, x: x + m.kept.add_(1)),
    "list": lambda: Hidden([], appends),
    "deque": lambda: Hidden(deque(maxlen=2), appends),
    "dict": lambda: Hidden({"z": torch.zeros(2, 1)}, replaces),
    "flag": lambda: Hidden(False, first_only),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_state_in_a_plain_attribute_is_refused(case: str) -> None:
    with pytest.raises(microddsp.CompileError, match="changes the attribute 'kept'") as caught:
        microddsp.compile(HIDDEN[case](), X[:, :BLOCK], target="host", name="m")
    assert "registered buffer" in caught.value.hint


def test_a_refused_attribute_is_left_as_it_was() -> None:
    module = Hidden(3, counts)
    with pytest.raises(microddsp.CompileError):
        microddsp.compile(module, X[:, :BLOCK], target="host", name="m")
    assert module.kept == 3


def test_a_buffer_without_a_first_value_is_refused() -> None:
    def starts(m: Any, x: Tensor) -> Tensor:
        y = x if m.z is None else x + m.z
        m.z = y[:, -1:]
        return y

    module = Holds(starts)
    module.register_buffer("z", None)
    with pytest.raises(microddsp.CompileError, match="starts as None"):
        microddsp.compile(module, X[:, :BLOCK], target="host", name="m")
    assert module.z is None


def test_what_is_computed_at_first_use_may_be_kept() -> None:
    class Lazy(nn.Module):
        @cached_property
        def window(self) -> Tensor:
            return torch.hann_window(BLOCK)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.window

    check(Lazy())
