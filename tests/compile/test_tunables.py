"""Numbers that change on the device: the result is PyTorch's with that number."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import microddsp
from microddsp import dsp
from microddsp.errors import CompileError, ParameterError
from microddsp.micro.package.model import CompiledModel
from tests.compile.test_generated_c import COMPILERS, WARNINGS
from tests.device_program import run_on_host

BLOCK = 32
NAMES = {
    "low": "0.low_hz",
    "attack": "1.attack_s",
    "gain": "2.gain",
    "q": "3.q",
    "level": "4.threshold",
}


def chain(
    low: float = 400.0,
    attack: float = 0.002,
    gain: float = 2.0,
    q: float = 2.0,
    level: float = 0.1,
) -> torch.nn.Module:
    return torch.nn.Sequential(
        dsp.Bandpass(low, 900.0, 2, sample_rate_hz=8000),
        dsp.Envelope(attack, 0.02, sample_rate_hz=8000),
        dsp.Gain(gain),
        dsp.Biquad.peaking(500.0, q, gain_db=3.0, sample_rate_hz=8000, initial="first_sample"),
        dsp.EventCounter(level, release_threshold=level - 0.05, sample_rate_hz=8000),
    )


def noise(channels: int = 1) -> np.ndarray:
    """Bursts, each half as loud as the one before."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((channels, 6, BLOCK * 12))
    x[:, :, BLOCK * 6 :] *= 1e-3
    return (x * 2.0 ** -np.arange(6)[:, None]).reshape(channels, -1).astype("float32")


def expected(module: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.tensor(x)).numpy()


def agrees(model: CompiledModel, wanted: torch.nn.Module) -> None:
    x = noise()
    model.reset()
    found = model.run(x)
    signal = expected(wanted[:4], x)
    assert np.abs(found["tap_3"] - signal).max() <= 1e-5 * np.abs(signal).max()
    assert found["out"][0, -1] == expected(wanted, x)[0, 0]


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return microddsp.compile(
        chain(), torch.zeros(1, BLOCK), name="tuned", taps=["3"], tunable=NAMES
    )


def test_each_number_set_gives_what_pytorch_gives_with_it(model: CompiledModel) -> None:
    now: dict[str, float] = {}
    agrees(model, chain())
    for name, value in [
        ("low", 250.0),
        ("attack", 0.01),
        ("gain", -3.0),
        ("q", 6.0),
        ("low", 80.0),
    ]:
        now[name] = value
        model.set(name, value)
        agrees(model, chain(**now))
    model.set("gain", 2.5)
    model.set("level", 0.4)
    agrees(model, chain(**{**now, "gain": 2.5, "level": 0.4}))
    model.reset()
    low = model.run(noise())["out"][0, -1]
    model.set("level", 0.8)
    model.reset()
    assert low > model.run(noise())["out"][0, -1] > 0


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("low", 900.0, "low cannot be"),  # the other edge
        ("low", -5.0, "low cannot be"),
        ("q", 0.0, "q cannot be"),
        ("attack", float("inf"), "attack cannot be"),
        ("gain", float("nan"), "gain cannot be"),
        ("level", float("nan"), "level cannot be"),
        ("level", [1.0, 2.0], "of shape"),
        ("leval", 1.0, "did you mean 'level'"),
    ],
)
def test_a_value_out_of_range_is_refused_and_changes_nothing(
    model: CompiledModel, name: str, value: object, words: str
) -> None:
    model.reset()
    before = model.run(noise())["tap_3"]
    with pytest.raises(ParameterError, match=words):
        model.set(name, value)  # type: ignore[arg-type]
    model.reset()
    np.testing.assert_array_equal(model.run(noise())["tap_3"], before)


def test_channels_have_their_own_numbers_or_share_them() -> None:
    """Coefficients that are the same for all channels, and a gain for each."""
    channels = 2

    def make(cutoff: float, gains: list[float]) -> torch.nn.Module:
        low = dsp.Lowpass(cutoff, 4, sample_rate_hz=8000)
        return torch.nn.Sequential(low, dsp.Gain(gains), dsp.Mix([[1.0] * channels]))

    gains = [1.0, 0.5]
    wanted = ["0.cutoff_hz", "1.gain", "2.weight"]
    x = noise(channels)
    found = microddsp.compile(make(900.0, gains), torch.zeros(channels, BLOCK), tunable=wanted)
    changed = [-2.0, 3.0]
    found.set("cutoff_hz", 300.0)
    found.set("gain", changed)
    found.set("weight", np.full((1, channels, 1), 0.25, "float32"))
    other = make(300.0, changed)
    with torch.no_grad():
        other[2].weight.fill_(0.25)
    signal = expected(other, x)
    assert np.abs(found.run(x) - signal).max() <= 1e-5 * np.abs(signal).max()


@pytest.mark.parametrize("form", ["direct", "svf"])
def test_coefficients_are_those_of_the_design_to_the_last_bit(form: str, tmp_path: Path) -> None:
    """The design runs in double precision on the device, as in PyTorch."""

    def make(f0: float) -> torch.nn.Module:
        return dsp.Biquad.lowpass(f0, 0.9, sample_rate_hz=8000, form=form)

    tuned = microddsp.compile(make(1000.0), torch.zeros(1, 8), name="tuned", tunable=["f0_hz"])
    main = """
    #include "tuned.h"
    static tuned_t model;
    int main(void)
    {
        float hz[3];
        static float seen[3][sizeof(model.p_coefficients) / sizeof(float)];
        READ(hz);
        if (tuned_set_f0_hz(&model, 10.0f) != TUNED_ERR_NOT_READY) { return 1; }
        if (tuned_set_f0_hz(0, 10.0f) != TUNED_ERR_NULL) { return 2; }
        if (tuned_init(&model, 0, 0u) != TUNED_OK) { return 3; }
        for (int i = 0; i < 3; ++i) {
            if (tuned_set_f0_hz(&model, hz[i]) != TUNED_OK) { return 4; }
            for (int k = 0; k < (int)(sizeof(seen[0]) / sizeof(float)); ++k) {
                seen[i][k] = model.p_coefficients[k];
            }
            tuned_reset(&model);
            if (tuned_set_f0_hz(&model, 4000.0f) != TUNED_ERR_RANGE) { return 5; }
            if (model.p_coefficients[0] != seen[i][0]) { return 6; }
        }
        WRITE(seen);
        return 0;
    }
    """
    hz = np.array([20.0, 700.0, 3900.0], "float32")
    seen = np.frombuffer(run_on_host(tmp_path, [tuned], main, hz.tobytes()), "float32")
    wanted = []
    for f in hz:
        block = make(float(f))
        block.frequency.raw = torch.nn.Parameter(
            torch.logit(torch.tensor(float(f) / 4000, dtype=torch.float64))
        )
        wanted.append(block.coefficients().detach().float().numpy().ravel())
    np.testing.assert_array_equal(seen.reshape(3, -1), wanted)


@pytest.mark.qemu
def test_a_board_takes_new_numbers(model: CompiledModel) -> None:
    with microddsp.open_board("mps2-an386", model) as board:
        x = noise()
        signal = expected(chain()[:4], x)
        assert np.abs(board.run(x)["tap_3"] - signal).max() <= 1e-5 * np.abs(signal).max()
        board.set("low", 250.0)
        board.set("gain", -1.0)
        signal = expected(chain(low=250.0, gain=-1.0)[:4], x)
        assert np.abs(board.run(x)["tap_3"] - signal).max() <= 1e-5 * np.abs(signal).max()
        with pytest.raises(ParameterError, match="low cannot be"):
            board.set("low", 5000.0)
        assert np.abs(board.run(x)["tap_3"] - signal).max() <= 1e-5 * np.abs(signal).max()


@pytest.mark.parametrize("compiler", ["c99", "c++17", "cortex-m4f", "cortex-m0"])
def test_no_compiler_warns_of_setters(model: CompiledModel, compiler: str, tmp_path: Path) -> None:
    for name, text in model.sources.items():
        (tmp_path / name).write_text(text)
    command = [*COMPILERS[compiler], "-O2", *WARNINGS, "-c", "tuned.c", "-o", "tuned.o"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_setters_survive_an_archive(model: CompiledModel, tmp_path: Path) -> None:
    model.save(tmp_path / "tuned.tar")
    loaded = microddsp.load(tmp_path / "tuned.tar")
    assert [t.name for t in loaded.signature.tunables] == ["gain", "low", "attack", "q", "level"]
    loaded.set("gain", 0.5)
    agrees(loaded, chain(gain=0.5))


@pytest.mark.slow
def test_object_code_has_setters_too() -> None:
    objects = microddsp.compile(
        chain(), torch.zeros(1, BLOCK), target="host", taps=["3"], tunable=NAMES, emit="obj"
    )
    objects.set("low", 250.0)
    objects.set("gain", 0.5)
    agrees(objects, chain(low=250.0, gain=0.5))


def started() -> torch.nn.Module:
    start = torch.nn.Parameter(torch.tensor(-0.1))
    return dsp.Recurrence(lambda x, y, g: g * y + x, start, parameters={"g": 0.6})


REFUSED: dict[str, tuple[Callable[[], torch.nn.Module], str, str]] = {
    "no module": (chain, "9.gain", "no module '9'"),
    "no number": (chain, "2.gane", "did you mean 'gain'"),
    "two behind it": (chain, "4.release_threshold", "cannot be set on its own"),
    "a rate": (chain, "0.sample_rate_hz", "cannot be set on its own"),
    "a parametrisation": (chain, "1.attack.raw", "does not use this number"),
    "where a state starts": (started, "start_state", "a state starts from this number"),
    "a learnable delay": (
        lambda: dsp.LearnableDelay(0.0104, max_s=0.05, sample_rate_hz=1000),
        "delay_s",
        "decides a whole number",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_set_is_refused(what: str) -> None:
    make, path, words = REFUSED[what]
    with pytest.raises(CompileError, match=words):
        microddsp.compile(make(), torch.zeros(1, BLOCK), tunable=[path])


def test_names_of_setters_are_unique_identifiers() -> None:
    pair = torch.nn.Sequential(dsp.Gain(1.0), dsp.Gain(2.0))
    both = microddsp.compile(pair, torch.zeros(1, 8), tunable=["0.gain", "1.gain"])
    assert [t.name for t in both.signature.tunables] == ["p0_gain", "p1_gain"]
    with pytest.raises(CompileError, match="cannot be called 'a b'"):
        microddsp.compile(pair, torch.zeros(1, 8), tunable={"a b": "0.gain"})
    with pytest.raises(CompileError, match="would be called"):
        microddsp.compile(pair, torch.zeros(1, 8), tunable=["0.gain", "0.gain"])
