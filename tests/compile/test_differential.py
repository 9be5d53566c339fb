"""Small torch modules, compiled for this computer, against torch itself: one frame, no filters."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import microddsp

Function = Callable[..., Tensor]


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class CallTwo(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.function(x, y)


class Batched(nn.Module):
    """A layer that wants a batch axis."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x[None])[0]


def signal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seen(norm: nn.Module) -> nn.Module:
    """A norm with statistics and weights that are not the initial ones."""
    torch.manual_seed(1)
    for _name, value in [*norm.named_parameters(), *norm.named_buffers()]:
        if value.is_floating_point():
            value.data.uniform_(0.5, 2.0)
    return norm


class Together(nn.Module):
    """Many modules on one input, so that they are compiled once."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleDict({c_name(name): module for name, module in modules.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: module(x) for name, module in self.each.items()}


def c_name(name: str) -> str:
    return "y_" + name.replace(",", "").replace(" ", "_")


def both(module: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the C and torch give."""
    with torch.no_grad():
        expected = module.eval()(x.clone())
    return microddsp.compile(module, x, target="host", name="m").run(x), expected


def compare(got: Tensor, expected: Tensor) -> None:
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def check(module: nn.Module, *inputs: Tensor) -> None:
    """Compiled equals torch, in shape, type and value."""
    module = module.eval()
    with torch.no_grad():
        expected = module(*(x.clone() for x in inputs))
    model = microddsp.compile(module, inputs, target="host", name="m")
    compare(model.run(*inputs), expected)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv1d(4, 6, 3),
    "conv without bias": lambda: nn.Conv1d(4, 6, 3, bias=False),
    "conv padded": lambda: nn.Conv1d(4, 6, 5, padding=2),
    "conv same": lambda: nn.Conv1d(4, 6, 4, padding="same"),
    "conv same dilated": lambda: nn.Conv1d(4, 2, 3, padding="same", dilation=2),
    "conv reflecting": lambda: nn.Conv1d(4, 2, 5, padding=2, padding_mode="reflect"),
    "conv replicating": lambda: nn.Conv1d(4, 2, 5, padding=2, padding_mode="replicate"),
    "conv circular": lambda: nn.Conv1d(4, 2, 5, padding=2, padding_mode="circular"),
    "conv strided": lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1),
    "conv dilated": lambda: nn.Conv1d(4, 6, 3, dilation=3),
    "conv grouped": lambda: nn.Conv1d(4, 8, 3, groups=2),
    "conv depthwise": lambda: nn.Conv1d(4, 4, 3, groups=4, padding=1),
    "transposed conv": lambda: nn.ConvTranspose1d(4, 3, 3),
    "transposed conv strided": lambda: nn.ConvTranspose1d(
        4, 3, 4, stride=2, padding=1, output_padding=1
    ),
    "transposed conv grouped": lambda: nn.ConvTranspose1d(4, 4, 3, groups=2),
    "batch norm": lambda: Batched(seen(nn.BatchNorm1d(4))),
    "batch norm plain": lambda: Batched(seen(nn.BatchNorm1d(4, affine=False))),
    "conv, norm, relu": lambda: Batched(
        nn.Sequential(nn.Conv1d(4, 6, 3), seen(nn.BatchNorm1d(6)), nn.ReLU())
    ),
    "layer norm": lambda: seen(nn.LayerNorm(32)),
    "layer norm over both": lambda: seen(nn.LayerNorm((4, 32))),
    "group norm": lambda: Batched(seen(nn.GroupNorm(2, 4))),
    "instance norm": lambda: nn.InstanceNorm1d(4, affine=True),
    "max pool": lambda: nn.MaxPool1d(4),
    "max pool overlapping": lambda: nn.MaxPool1d(3, stride=2, padding=1),
    "max pool dilated": lambda: nn.MaxPool1d(3, stride=1, dilation=2),
    "mean pool": lambda: nn.AvgPool1d(4),
    "mean pool padded": lambda: nn.AvgPool1d(3, stride=2, padding=1),
    "mean pool padded, not counted": lambda: nn.AvgPool1d(
        3, stride=2, padding=1, count_include_pad=False
    ),
    "mean pool ceil": lambda: nn.AvgPool1d(5, stride=3, ceil_mode=True),
    "mean pool, batched": lambda: Batched(nn.AvgPool1d(3, stride=2, padding=1)),
    "adaptive mean pool, batched": lambda: Batched(nn.AdaptiveAvgPool1d(3)),
    "adaptive mean pool": lambda: nn.AdaptiveAvgPool1d(1),
    "adaptive mean pool uneven": lambda: nn.AdaptiveAvgPool1d(5),
    "linear": lambda: nn.Linear(32, 5),
    "flat classifier": lambda: nn.Sequential(
        nn.Flatten(0), nn.Linear(128, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(-1)
    ),
    "unfolded": lambda: nn.Sequential(nn.Conv1d(4, 2, 3), nn.Flatten(0), nn.Unflatten(0, (4, 15))),
    "dropout, off": lambda: nn.Dropout(0.5),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_gives_what_torch_gives(layer: str) -> None:
    torch.manual_seed(0)
    check(LAYERS[layer](), signal(4, 32))


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky relu": lambda: nn.LeakyReLU(0.1),
    "relu6": nn.ReLU6,
    "elu": nn.ELU,
    "elu scaled": lambda: nn.ELU(0.3),
    "celu": lambda: nn.CELU(0.7),
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "gelu by tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "hard sigmoid": nn.Hardsigmoid,
    "hard swish": nn.Hardswish,
    "hard tanh": lambda: nn.Hardtanh(-0.4, 0.7),
    "softplus": nn.Softplus,
    "softplus steep": lambda: nn.Softplus(beta=3.0, threshold=2.0),
    "softsign": nn.Softsign,
    "softshrink": lambda: nn.Softshrink(0.3),
    "hard shrink": lambda: nn.Hardshrink(0.3),
    "tanh shrink": nn.Tanhshrink,
    "threshold": lambda: nn.Threshold(0.2, -1.0),
    "log sigmoid": nn.LogSigmoid,
    "prelu, batched": lambda: Batched(nn.PReLU(4)),
    "softmax": lambda: nn.Softmax(-1),
    "softmax over channels": lambda: nn.Softmax(0),
    "softmin": lambda: nn.Softmin(-1),
    "log softmax": lambda: nn.LogSoftmax(-1),
    "glu": lambda: nn.GLU(0),
}


@cache
def activated() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return both(Together({n: make() for n, make in ACTIVATIONS.items()}), 3 * signal(4, 8))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_gives_what_torch_gives(activation: str) -> None:
    got, expected = activated()
    compare(got[c_name(activation)], expected[c_name(activation)])


FUNCTIONS: dict[str, Function] = {
    "cat": lambda x: torch.cat([x, 2 * x[:2], -x], 0),
    "cat along time": lambda x: torch.cat([x[:, 4:], x[:, :4]], -1),
    "stack": lambda x: torch.stack([x, x + 1], -1),
    "slice with step": lambda x: x[1:, 1:7:2],
    "slice from the end": lambda x: x[:, -3:],
    "slice to the end": lambda x: x[:, :-3],
    "last": lambda x: x[:, -1] + x[-2, 0],
    "split": lambda x: x.split(3, dim=1)[1] * x.chunk(2, dim=1)[0][:, :3],
    "unbind": lambda x: x.unbind(0)[1] - x.unbind(0)[-1],
    "where": lambda x: torch.where(x > 0.1, x, -2 * x),
    "where with numbers": lambda x: torch.where(x > 0.1, 1.0, -1.0),
    "masked fill": lambda x: x.masked_fill(x < 0, 0.5),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "clamp from below": lambda x: x.clamp(min=-0.3),
    "clamp from above": lambda x: x.clamp(max=0.3),
    "clamp by tensors": lambda x: torch.clamp(x, x.mean(-1, keepdim=True), x[:, :1].abs() + 1),
    "argmax": lambda x: x.argmax(-1),
    "argmax of all": lambda x: x.argmax(),
    "argmin": lambda x: x.argmin(0, keepdim=True),
    "max of all": lambda x: x.max(),
    "max along": lambda x: x.max(-1).values,
    "amax": lambda x: x.amax(-1),
    "amin": lambda x: x.amin((0, 1)),
    "min along": lambda x: x.min(0).values,
    "where the max is": lambda x: x.max(-1).indices,
    "maximum, minimum": lambda x: torch.maximum(x, -x * 0.5) + torch.minimum(x, x * x),
    "abs": lambda x: x.abs() + (x * 3).round().to(torch.int32).abs(),
    "exp": lambda x: torch.exp(x) + torch.expm1(x),
    "logs": lambda x: torch.log1p(x * x) + torch.log(x.abs() + 0.1) + torch.log10(x.abs() + 0.1),
    "log2": lambda x: torch.log2(x.abs() + 0.1),
    "roots": lambda x: torch.sqrt(x * x + 1) + torch.rsqrt(x * x + 1) + torch.reciprocal(x),
    "powers": lambda x: x**2 + x**3 + (x.abs() + 0.1) ** 0.3 + 2.0**x,
    "power of tensors": lambda x: torch.pow(x.abs() + 0.5, x),
    "trigonometry": lambda x: torch.sin(x) + torch.cos(x) * torch.tan(x / 4),
    "inverse trigonometry": lambda x: torch.asin(x / 9) + torch.acos(x / 9) + torch.atan(x),
    "hyperbolic": lambda x: torch.sinh(x) + torch.cosh(x) + torch.asinh(x),
    "atan2": lambda x: torch.atan2(x, x.flip(-1)),
    "erf": lambda x: torch.erf(x),
    "logaddexp": lambda x: torch.logaddexp(x, 2 * x),
    "logsumexp": lambda x: torch.logsumexp(x, -1),
    "sign": lambda x: torch.sign(x) + torch.sign(torch.zeros_like(x)),
    "remainder": lambda x: torch.remainder(x, 0.3),
    "remainder negative": lambda x: torch.remainder(x, -0.3),
    "fmod": lambda x: torch.fmod(x, 0.3),
    "floor division": lambda x: torch.div(x, 0.3, rounding_mode="floor"),
    "truncating division": lambda x: torch.div(x, 0.3, rounding_mode="trunc"),
    "rounding": lambda x: torch.floor(x * 4) + torch.ceil(x * 2) + torch.trunc(x * 8),
    "round half to even": lambda x: torch.round(torch.round(x * 4) / 2),
    "comparisons": lambda x: (x > 0.1) & (x < 1) | (x == x[:1]) | ~(x >= -1) | (x != x),
    "comparison to number": lambda x: (x <= 0.1).float() * 2 + (x > 0.1).to(torch.int32),
    "any and all": lambda x: (x > 1).any(-1).float() + (x > -1).all(-1).float(),
    "xor": lambda x: (x > 0) ^ (x > 0.5),
    "mean": lambda x: x.mean(-1) + x.mean(),
    "mean kept": lambda x: x - x.mean((0, 1), keepdim=True),
    "sum": lambda x: x.sum(0) + x.sum(),
    "sum of booleans": lambda x: (x > 0).sum(-1),
    "var": lambda x: x.var(-1) + x.var(-1, unbiased=False),
    "std": lambda x: x.std(-1, keepdim=True) + x.std(),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=-1) + x.norm(),
    "normalize": lambda x: F.normalize(x, dim=-1),
    "prod": lambda x: x.prod(-1),
    "cumsum": lambda x: x.cumsum(-1),
    "diff": lambda x: x.diff(dim=-1),
    "matmul": lambda x: x @ x.T,
    "matmul by vector": lambda x: x @ x[0],
    "batched matmul": lambda x: torch.bmm(x.view(2, 2, 8), x.view(2, 8, 2)),
    "einsum": lambda x: torch.einsum("ct,dt->cd", x, x * 2),
    "outer": lambda x: torch.outer(x[0], x[1]),
    "transpose": lambda x: x.transpose(0, 1) * 2,
    "permute": lambda x: x.view(2, 2, 8).permute(2, 0, 1),
    "reshape": lambda x: x.reshape(8, -1),
    "flatten": lambda x: x.flatten(),
    "expand": lambda x: x[:, :1].expand(4, 8) + x,
    "repeat": lambda x: x.repeat(2, 3),
    "repeat interleave": lambda x: x.repeat_interleave(2, dim=-1),
    "squeeze": lambda x: x[:1].squeeze(0).unsqueeze(-1),
    "pad": lambda x: F.pad(x, (2, 1), value=0.5),
    "pad reflecting": lambda x: F.pad(x, (2, 3), mode="reflect"),
    "pad replicating": lambda x: F.pad(x, (2, 3), mode="replicate"),
    "flip": lambda x: x.flip(-1),
    "roll": lambda x: x.roll(3, -1) + x.roll(-1, 0),
    "index by list": lambda x: x[:, [5, 0, -1]],
    "index select": lambda x: x.index_select(1, torch.tensor([6, 2])),
    "gather": lambda x: x.gather(1, (x.abs() * 2).long().clamp(0, 7)),
    "one hot": lambda x: F.one_hot(x.argmax(-1), 8),
    "triangle": lambda x: torch.tril(x) + torch.triu(x, 1),
    "arange": lambda x: x * torch.arange(8),
    "like": lambda x: x + torch.ones_like(x) + torch.full_like(x, 0.5),
    "unfold": lambda x: x.unfold(-1, 4, 2),
    "interpolate": lambda x: F.interpolate(x[None], scale_factor=2)[0],
    "interpolate linear": lambda x: F.interpolate(x[None], 13, mode="linear")[0],
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None])[0],
    "lerp": lambda x: torch.lerp(x, x * x, 0.3),
    "addcmul": lambda x: torch.addcmul(x, x, x, value=0.5),
    "in place on own": lambda x: (x * 2).add_(1).mul_(3).relu_(),
    "no change": lambda x: x,
    "hypot": lambda x: torch.hypot(x, x + 1),
    "signed integers": lambda x: (x * 100).to(torch.int16) // 7 + (x * 100).to(torch.int8) % 7,
    "by negative integers": lambda x: (x * 100).int() // -7 + (x * 100).int() % -7,
    "fmod of integers": lambda x: torch.fmod((x * 100).to(torch.int16), 7),
    "to bytes": lambda x: (x.abs() * 20).to(torch.uint8) * 2,
    "to booleans": lambda x: x.to(torch.bool),
    "bits": lambda x: ((x * 100).to(torch.int32) & 12) | 1,
    "long sums": lambda x: (x * 1000).long().sum(-1),
    "sort": lambda x: x.sort(-1).values,
    "topk": lambda x: x.topk(2, -1).values,
    "nan to num": lambda x: torch.nan_to_num(torch.log(x), 0.25),
    "isnan": lambda x: torch.isnan(torch.log(x)),
    "cdist": lambda x: torch.cdist(x, x + 1),
    "cosine similarity": lambda x: F.cosine_similarity(x[:2], x[2:], dim=-1),
    "scalar tensor": lambda x: x * torch.tensor(2) + torch.tensor(0.5),
    "dividing integers": lambda x: (x * 100).to(torch.int32) / (x * 10 + 50).to(torch.int32),
    "mixing types": lambda x: (x > 0) * x + (x * 10).to(torch.int16) * 0.5 + (x > 1).int() * x,
    "number first": lambda x: 1 - x + 2 / (x + 5),
}
# No kernel, or none that could be trusted: the compiler must say so.
REFUSED = {"one hot"}


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if f not in REFUSED])
def test_a_function_gives_what_torch_gives(function: str) -> None:
    check(Call(FUNCTIONS[function]), signal(4, 8))


@pytest.mark.parametrize("function", sorted(REFUSED))
def test_what_has_no_kernel_is_refused(function: str) -> None:
    with pytest.raises(microddsp.CompileError):
        microddsp.compile(Call(FUNCTIONS[function]), signal(4, 8), target="host", name="m")


PAIRS: dict[str, Function] = {
    "sum": lambda x, y: x + 2 * y - y / (x.abs() + 1),
    "broadcast": lambda x, y: x[:, None] * y[None],
    "minimum": lambda x, y: torch.minimum(x, y) + torch.maximum(x, y * 2),
    "comparison": lambda x, y: torch.where(x > y, x, y),
    "atan2": lambda x, y: torch.atan2(x, y),
    "remainder": lambda x, y: torch.remainder(x, y) + torch.fmod(x, y),
    "matmul": lambda x, y: x.T @ y,
}


@pytest.mark.parametrize("function", PAIRS)
def test_a_function_of_two_inputs_gives_what_torch_gives(function: str) -> None:
    check(CallTwo(PAIRS[function]), signal(4, 8), signal(4, 8, seed=1))


NANS: dict[str, Function] = {
    "relu": lambda x: F.relu(x),
    "relu6": lambda x: F.relu6(x),
    "leaky relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": lambda x: F.elu(x),
    "selu": lambda x: F.selu(x),
    "hard tanh": lambda x: F.hardtanh(x),
    "hard sigmoid": lambda x: F.hardsigmoid(x),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "clamp from below": lambda x: x.clamp(min=0.0),
    "clamp from above": lambda x: x.clamp(max=0.5),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "maximum of the other": lambda x: torch.maximum(torch.zeros_like(x), x),
    "minimum": lambda x: torch.minimum(x, torch.zeros_like(x)),
    "minimum of the other": lambda x: torch.minimum(torch.zeros_like(x), x),
    "amax": lambda x: x.amax(-1),
    "amin": lambda x: x.amin(-1),
    "max pool": lambda x: F.max_pool1d(x, 2),
    "max along": lambda x: x.max(-1).values,
    "over itself": lambda x: x / x,
    "any": lambda x: x.any(-1) & ~x.isnan().all(-1),
    "abs": lambda x: x.abs(),
    "sign": lambda x: torch.sign(x),
    "softmax": lambda x: torch.softmax(x, -1),
    "comparison": lambda x: (x > 0).float() + (x <= 0).float() * 2 + (x != x).float() * 4,
    "negated comparison": lambda x: ~(x >= 0) | ~(x < -1),
    "choice by comparison": lambda x: torch.where(x >= 0, x, 1.0) + torch.where(x < 0, 2.0, 1.0),
    "equal to itself": lambda x: (x == x).float(),
    "not finite": lambda x: torch.isfinite(x).float() + torch.isinf(x).float(),
    "to boolean": lambda x: x.bool().float(),
    "mean": lambda x: x.mean(-1),
}


@cache
def with_nans() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    # the logarithm of a negative number: NaN from outside is refused by run
    modules = {n: nn.Sequential(Call(torch.log), Call(f)) for n, f in NANS.items()}
    return both(Together(modules), signal(4, 8))


@pytest.mark.parametrize("function", NANS)
def test_a_nan_passes_as_in_torch(function: str) -> None:
    got, expected = with_nans()
    compare(got[c_name(function)], expected[c_name(function)])


def test_small_powers_are_products_and_no_warning(capfd: pytest.CaptureFixture[str]) -> None:
    class Powers(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x**n for n in (3, 4, 5, 8, 13)])

    x = torch.linspace(-1.5, 1.5, 16)[None]
    model = microddsp.compile(Powers(), x, target="host", name="powers")
    torch.testing.assert_close(model.run(x), Powers()(x), rtol=1e-6, atol=0.0)
    assert "pow" not in model.sources["powers.c"].replace("powers", "")
    assert "Warning" not in capfd.readouterr().err
