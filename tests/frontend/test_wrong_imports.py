"""What TVM's importer gets wrong without saying so: compiled rightly, or refused.

Each case is also run through the plain importer, which must fail or differ: where it does not any
more, TVM was mended and the guard can go.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import tvm
from torch import Tensor, nn
from torch.nn import functional as F
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

import microddsp

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
WHOLE = (X * 30).to(torch.int32)
BYTES = (X * 30).to(torch.int8)


class Call(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class CallTwo(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.function(x, y)


class Counting(nn.Module):
    """Remembers how often it was called."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1.0)
        return x + self.calls


class Overwriting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2.0)
        return x + 1


def last_two(x: Tensor) -> Tensor:
    return x[:, torch.tensor([-1, -2])]


COMPILED: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "last sample": (Call(lambda x: x[:, -1]), (X,)),
    "last channel": (Call(lambda x: x[-1]), (X,)),
    "negative index tensor": (Call(last_two), (X,)),
    "negative index input": (CallTwo(lambda x, i: x[i]), (X, torch.tensor([-1, 0]))),
    "sum with alpha": (CallTwo(lambda x, y: torch.add(x, y, alpha=3)), (X, X.flip(1))),
    "difference with alpha": (CallTwo(lambda x, y: torch.sub(x, y, alpha=0.5)), (X, X.flip(1))),
    "trapezoid": (Call(lambda x: torch.trapezoid(x, dim=-1)), (X,)),
    "integer divided": (Call(lambda x: x / 7), (WHOLE,)),
    "byte times a fraction": (Call(lambda x: x * 0.5), (BYTES,)),
    "selu": (nn.SELU(), (X,)),
    "running sum of bytes": (Call(lambda x: x.cumsum(-1)), (BYTES,)),
    "mean pool without batch": (nn.AvgPool1d(2), (X,)),
    "greatest along": (Call(lambda x: x.amax(-1)), (X,)),
}
# relu is right on LLVM without NaN, so that the plain importer is asked with one
NANS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: F.relu(torch.log(x)),
    "clamp": lambda x: torch.log(x).clamp(-1.0, 1.0),
}
REFUSED: dict[str, tuple[nn.Module, tuple[Tensor, ...], str]] = {
    "product of integers": (
        CallTwo(lambda x, y: x @ y.T),
        (WHOLE, WHOLE),
        "torch.int32 is not supported",
    ),
    "pool with indices": (
        Call(lambda x: F.max_pool1d(x[None], 2, return_indices=True)[1]),
        (X,),
        "indices",
    ),
}


def plain_import(module: nn.Module, *inputs: Tensor) -> list[np.ndarray]:
    """What TVM alone makes of a module, on LLVM."""
    program = torch.export.export(module, inputs, strict=False).run_decompositions()
    target = tvm.target.Target("llvm")
    executable = tvm.compile(from_exported_program(program), target)
    machine = relax.VirtualMachine(executable, tvm.cpu())
    result = machine["main"](*(tvm.runtime.tensor(x.numpy()) for x in inputs))
    return [np.asarray(value.numpy()) for value in result]


def agrees(got: np.ndarray, expected: Tensor) -> bool:
    want = expected.numpy()
    return (
        got.dtype == want.dtype
        and got.shape == want.shape
        and np.allclose(got, want, rtol=1e-5, atol=1e-6, equal_nan=True)
    )


def plain_import_fails(module: nn.Module, *inputs: Tensor) -> bool:
    expected = module(*(x.clone() for x in inputs))
    try:
        got = plain_import(module, *(x.clone() for x in inputs))
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, KeyError):
        return True
    return not agrees(got[0], expected)


@pytest.mark.parametrize("case", COMPILED)
def test_a_wrong_import_is_compiled_rightly(case: str) -> None:
    module, inputs = COMPILED[case]
    got = microddsp.compile(module, inputs, target="host", name="m").run(*inputs)
    assert agrees(got.numpy(), module(*inputs))


@pytest.mark.parametrize("case", [*COMPILED, *REFUSED])
def test_the_plain_importer_still_gets_it_wrong(case: str) -> None:
    module, inputs = (COMPILED | {k: v[:2] for k, v in REFUSED.items()})[case]
    assert plain_import_fails(module, *inputs)


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_import_is_refused(case: str) -> None:
    module, inputs, message = REFUSED[case]
    with pytest.raises(microddsp.CompileError, match=message):
        microddsp.compile(module, inputs, target="host", name="m")


@pytest.mark.parametrize("case", NANS)
def test_a_nan_is_not_lost(case: str) -> None:
    module = Call(NANS[case])
    got = microddsp.compile(module, X, target="host", name="m").run(X)
    assert torch.isnan(got).any()
    assert agrees(got.numpy(), module(X))


def test_the_plain_importer_still_loses_a_nan_in_relu() -> None:
    assert plain_import_fails(Call(NANS["relu"]), X)


def test_a_changed_buffer_is_kept() -> None:
    module = Counting()
    model = microddsp.compile(module, X, target="host", name="m")
    assert float(module.calls) == 0.0
    for call in (1.0, 2.0, 3.0):
        np.testing.assert_allclose(model.run(X).numpy(), X.numpy() + call, rtol=1e-6)


def test_the_plain_importer_still_drops_a_changed_buffer() -> None:
    program = torch.export.export(Counting(), (X,), strict=False).run_decompositions()
    main = from_exported_program(program)["main"]
    machine = relax.VirtualMachine(
        tvm.compile(from_exported_program(program), tvm.target.Target("llvm")), tvm.cpu()
    )
    assert len(main.params) == 1
    x = tvm.runtime.tensor(X.numpy())
    first, second = machine["main"](x)[0].numpy(), machine["main"](x)[0].numpy()
    np.testing.assert_array_equal(first, second)


def test_an_input_that_is_changed_in_place_is_refused() -> None:
    with pytest.raises(microddsp.CompileError, match="changes its input 'x' in place") as caught:
        microddsp.compile(Overwriting(), X, target="host", name="m")
    assert "x.clone()" in caught.value.hint


def test_the_plain_importer_still_drops_a_changed_input() -> None:
    x = X.clone()
    program = torch.export.export(Overwriting(), (x.clone(),), strict=False).run_decompositions()
    executable = tvm.compile(from_exported_program(program), tvm.target.Target("llvm"))
    given = tvm.runtime.tensor(x.numpy().copy())
    relax.VirtualMachine(executable, tvm.cpu())["main"](given)
    np.testing.assert_array_equal(given.numpy(), x.numpy())
