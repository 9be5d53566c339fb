"""Constants in fewer bits: nothing is rounded, and what is computed stays the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import microddsp
from microddsp import dsp, training
from microddsp.micro.aot.narrow import LEAST, stored


@given(
    st.lists(st.integers(-(2**15) + 1, 2**15 - 1), min_size=LEAST, max_size=50),
    st.integers(-60, 60),
    st.integers(1, 12),
)
def test_what_is_stored_is_exactly_what_was(numbers: list[int], power: int, shift: int) -> None:
    values = (np.array(numbers) * 2.0**power).astype("float32")
    found = stored(values)
    assert found is not None
    again = found.values.astype("float32") * np.float32(found.scale)
    np.testing.assert_array_equal(again, values)
    # the fewest bits in which it fits
    small = max(map(abs, numbers)) <= 127
    assert found.values.dtype == "int8" or not small
    assert (
        stored(np.append(values, np.float32(2.0 ** (power - shift) + 2.0 ** (power + 20)))) is None
    )


@pytest.mark.parametrize(
    "values",
    [
        np.ones(LEAST - 1, "float32"),
        np.ones(LEAST, "int32"),
        np.ones(LEAST, "float64"),
        np.full(LEAST, np.nan, "float32"),
        np.full(LEAST, np.inf, "float32"),
        np.linspace(0, 1, LEAST).astype("float32"),
        np.full(LEAST, 2.0**-140).astype("float32"),
    ],
    ids=["few", "integers", "doubles", "nan", "infinite", "no multiples", "too small"],
)
def test_the_rest_stays_as_it_is(values: np.ndarray) -> None:
    assert stored(values) is None


class Layers(nn.Module):
    """Matrices that kernels read in different ways, and two users of one kernel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.waves = dsp.CausalConv1d(1, 6, 128, stride=64, bias=False)
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.mix = dsp.Mix(torch.randn(6, 6))
        self.fir = dsp.FIR(torch.arange(-20.0, 20.0) / 64)
        training.round_weights(self.one, bits=8)
        training.round_weights(self.two, bits=12)
        training.round_weights(self.waves, bits=5)
        training.round_weights(self.mix, bits=8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.waves(self.fir(x)).mT
        return self.mix(self.two(torch.relu(self.one(y))).mT)


@pytest.fixture(scope="module")
def models() -> list[microddsp.CompiledModel]:
    x = torch.zeros(1, 64)
    return [
        microddsp.compile(Layers().eval(), x, target="cortex-m4f", name="m", narrow=narrow)
        for narrow in (False, True)
    ]


def test_the_results_are_the_same_bit_by_bit(models: list[microddsp.CompiledModel]) -> None:
    x = torch.randn(1, 256, generator=torch.Generator().manual_seed(1))
    wide, narrow = (np.asarray(model.run(x)) for model in models)
    np.testing.assert_array_equal(narrow, wide)
    with torch.no_grad():
        expected = Layers().eval()(x).numpy()
    np.testing.assert_allclose(narrow, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_tables_take_one_or_two_bytes_a_number(models: list[microddsp.CompiledModel]) -> None:
    wide, narrow = models
    source = narrow.sources["m.c"]
    assert source.count("static const int8_t") == 4  # waves, one linear layer, mix and FIR
    assert source.count("static const int16_t") == 1
    assert "int8_t" not in wide.sources["m.c"] and "int16_t" not in wide.sources["m.c"]
    saved = 3 * (6 * 128 + 36 + 36 + 40) + 2 * 36
    assert wide.memory.flash_bytes - narrow.memory.flash_bytes > 0.6 * saved


@pytest.mark.qemu
def test_a_device_computes_the_same(models: list[microddsp.CompiledModel]) -> None:
    x = torch.randn(1, 128, generator=torch.Generator().manual_seed(1))
    outputs = []
    for model in models:
        with microddsp.open_board("mps2-an386", model) as board:
            outputs.append(np.asarray(board.run(x)))
    np.testing.assert_array_equal(*outputs)
