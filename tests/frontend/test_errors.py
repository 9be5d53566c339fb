"""What cannot be compiled is refused in words: what, where in the user's model, what to do."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import microddsp
from microddsp import dsp
from microddsp.errors import CompileError, UnsupportedOperatorError

RATE = 8000.0
HERE = __file__
BLOCK = torch.zeros(2, 16)


def refusal(module: Any, *inputs: Any, **options: Any) -> CompileError:
    """The error that compiling raises."""
    with pytest.raises(CompileError) as caught:
        microddsp.compile(module, inputs or BLOCK, target="host", name="m", **options)
    return caught.value


def line_of(function: Callable[..., Any], text: str) -> str:
    """`file:line` of the line in a function that holds this text."""
    lines, first = inspect.getsourcelines(function)
    return f"{HERE}:{first + next(i for i, line in enumerate(lines) if text in line)}"


def smooth() -> dsp.OnePole:
    return dsp.OnePole(100.0, sample_rate_hz=RATE)


class Call(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def test_an_unknown_tap_names_the_modules_there_are() -> None:
    module = nn.Sequential()
    module.add_module("band", smooth())
    error = refusal(module, taps=["bnad"])
    assert "no module 'bnad' to tap" in error.message
    assert "did you mean 'band'" in error.hint


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x * 2)


def test_a_shape_that_does_not_fit_names_submodule_and_line() -> None:
    error = refusal(Classifier())
    assert "the module fails on the example" in error.message
    assert error.where == f"head, {line_of(Classifier, 'self.head(x * 2)')}"


def test_a_signal_without_channel_axis_is_refused_by_the_block() -> None:
    error = refusal(nn.Sequential(smooth()), torch.zeros(16))
    assert "(..., channels, samples)" in error.message
    assert "x[None]" in error.hint


def test_a_parameter_that_is_nan_is_named() -> None:
    module = nn.Sequential(nn.Conv1d(2, 2, 1))
    with torch.no_grad():
        module[0].weight[0] = float("nan")
    error = refusal(module)
    assert error.where == "0.weight"
    assert "not finite" in error.message


def test_a_buffer_that_is_infinite_is_named() -> None:
    module = nn.Sequential(dsp.Gain(2.0))
    module.register_buffer("scale", torch.tensor([float("inf")]))
    assert refusal(module).where == "scale"


def test_an_unstable_filter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    unstable = torch.tensor([1.0, 0.0, -1.01], dtype=torch.float64)
    monkeypatch.setattr(dsp.OnePole, "coefficients", lambda self: unstable)
    error = refusal(nn.Sequential(dsp.Gain(), smooth()))
    assert "not stable: a pole has radius 1.01" in error.message
    assert error.where.startswith("1")


def test_a_filter_whose_coefficients_are_nan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = torch.tensor([1.0, 0.0, float("nan")], dtype=torch.float64)
    monkeypatch.setattr(dsp.OnePole, "coefficients", lambda self: broken)
    error = refusal(nn.Sequential(smooth()))
    assert "coefficients are not finite" in error.message
    assert error.where.startswith("0")


class MixesTime(nn.Module):
    """A filter, then something that looks along time."""

    def __init__(self, layer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.filter = smooth()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y = self.filter(x)
        return self.layer(y)


LAYERS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "conv": lambda: nn.Conv1d(2, 2, 3, padding=1),
    "pool": lambda: nn.MaxPool1d(2),
    "linear": lambda: nn.Linear(16, 16),
    "layer norm": lambda: nn.LayerNorm(16),
    "softmax": lambda: nn.Softmax(-1),
    "mean": lambda: lambda x: x.mean(-1, keepdim=True),
    "difference to the mean": lambda: lambda x: x - x.mean(-1, keepdim=True),
    "last sample": lambda: lambda x: x[:, -1:],
    "every other sample": lambda: lambda x: x[:, ::2],
    "backwards": lambda: lambda x: x.flip(-1),
    "flat": lambda: lambda x: x.flatten(),
    "window": lambda: lambda x: x * torch.hann_window(16),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_that_mixes_time_after_a_filter_is_refused(layer: str) -> None:
    error = refusal(MixesTime(LAYERS[layer]()))
    assert "dsp.CausalConv1d" in error.hint
    assert "dsp.Frames" in error.hint
    assert HERE in error.where


def test_the_refusal_of_a_layer_names_its_line() -> None:
    error = refusal(MixesTime(nn.Conv1d(2, 2, 3, padding=1)))
    assert error.where == f"layer, {line_of(MixesTime, 'self.layer(y)')}"
    assert "conv" in error.message


ACROSS_FRAMES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean(0),
    "softmax": lambda x: x.softmax(0),
    "first frame": lambda x: x[0],
    "backwards": lambda x: x.flip(0),
    "by index": lambda x: x[[1, 0]],
    "exchanged with channels": lambda x: x.transpose(0, 1),
    "flat": lambda x: x.flatten(),
    "rows mixed": lambda x: x.reshape(4, 8).softmax(0),
    "rows left": lambda x: x.reshape(4, 8).sum(0),
}


@pytest.mark.parametrize("case", ACROSS_FRAMES)
def test_what_mixes_frames_with_each_other_is_refused(case: str) -> None:
    module = nn.Sequential(dsp.Frames(8), Call(ACROSS_FRAMES[case]))
    assert "mixes frames with each other" in refusal(module).message


@pytest.mark.parametrize(
    "module", [dsp.Frames(12, 6), dsp.Decimate(5), dsp.CausalConv1d(2, 1, 3, stride=3)]
)
def test_a_block_that_is_no_multiple_of_the_hop_is_refused(module: nn.Module) -> None:
    error = refusal(nn.Sequential(dsp.Gain(), module))
    assert "multiple" in str(error)
    assert "16" in str(error)
    assert error.where.startswith("1")


def test_no_example_is_refused() -> None:
    with pytest.raises(CompileError, match="at least one example"):
        microddsp.compile(smooth(), (), target="host")


def test_an_empty_example_is_refused() -> None:
    assert "must not be empty" in refusal(smooth(), torch.zeros(1, 0)).message


def test_a_double_precision_example_is_refused() -> None:
    error = refusal(smooth(), BLOCK.double())
    assert "float64" in error.message
    assert error.hint.endswith("x.float()")


def test_an_example_that_is_no_tensor_is_refused() -> None:
    assert "example input 1 is a list" in refusal(smooth(), BLOCK, [1.0]).message


def test_too_many_examples_are_refused() -> None:
    assert "forward takes 1 inputs (x), got 2" in refusal(smooth(), BLOCK, BLOCK).message


def test_sample_rates_at_odds_are_refused() -> None:
    error = refusal(nn.Sequential(smooth(), dsp.OnePole(100.0, sample_rate_hz=4000.0)))
    assert "0 has 8000 Hz, 1 has 4000 Hz" in error.message
    assert "Decimate" in error.hint


def test_a_decimation_explains_two_sample_rates() -> None:
    module = nn.Sequential(smooth(), dsp.Decimate(2), dsp.OnePole(100.0, sample_rate_hz=RATE / 2))
    model = microddsp.compile(module, BLOCK, target="host", name="m")
    assert model.signature.sample_rate_hz == RATE


@pytest.mark.parametrize("name", ["double", "self", "two words", "1st"])
def test_an_output_name_that_is_no_c_name_is_refused(name: str) -> None:
    error = refusal(Call(lambda x: {name: x * 2}))
    assert f"{name!r} cannot be the name of an input or output in C" in error.message
    assert "key of the returned dict" in error.hint


def test_an_output_called_like_the_input_is_refused() -> None:
    assert "two inputs or outputs are called 'x'" in refusal(Call(lambda x: {"x": x * 2})).message


@pytest.mark.parametrize("name", ["my-model", "assert", "signal"])
def test_a_model_name_that_is_no_c_name_or_a_header_of_c_is_refused(name: str) -> None:
    with pytest.raises(CompileError, match="cannot prefix C names"):
        microddsp.compile(smooth(), BLOCK, target="host", name=name)


class Unsupported(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.special.i0(x)
        z = torch.erfinv(x)
        return y + z


def test_unsupported_operators_are_collected_and_named_with_their_lines() -> None:
    error = refusal(Unsupported())
    assert isinstance(error, UnsupportedOperatorError)
    assert f"i0.default is not supported ({line_of(Unsupported, 'i0')})" in error.message
    assert f"({line_of(Unsupported, 'erfinv')})" in error.message
    assert "microddsp ops" in error.hint


def test_a_type_without_c_is_refused() -> None:
    assert "float64" in refusal(Call(lambda x: x.double() * 2)).message
    assert "view_as_real" in refusal(Call(torch.fft.rfft)).message


class Overwrites(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2.0)


def test_an_input_that_is_changed_in_place_is_refused() -> None:
    error = refusal(Overwrites())
    assert "changes its input 'x' in place" in error.message
    assert line_of(Overwrites, "mul_") in error.where
    assert "x.clone()" in error.hint


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_control_flow_on_values_is_refused() -> None:
    error = refusal(Branches())
    assert "cannot be traced" in error.message
    assert "control flow" in error.hint
    assert line_of(Branches, "if x.sum") in error.where


def test_a_class_in_place_of_an_instance_is_refused() -> None:
    error = refusal(Overwrites)
    assert "a torch.nn.Module is compiled, not a type" in error.message
    assert error.hint == "give an instance, not the class"


@pytest.mark.parametrize(
    "result", [None, (), [], 3.0, "text", (BLOCK, 1.0), {"a": [BLOCK]}, {"a": None}]
)
def test_a_result_that_is_no_flat_set_of_tensors_is_refused(result: Any) -> None:
    assert "forward returns" in refusal(Call(lambda x: result)).message


def test_an_unknown_input_format_names_the_inputs() -> None:
    error = refusal(smooth(), input={"y": microddsp.Input(dtype="s16")})
    assert "no input 'y'" in error.message
    assert "known: x" in error.hint


def test_a_refused_module_is_left_as_it_was() -> None:
    module = MixesTime(nn.MaxPool1d(2)).train()
    refusal(module)
    assert module.training
    assert not list(module.buffers())
