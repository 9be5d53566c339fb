"""Choices of kernels: all give the same numbers, and a kernel is known by what it computes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from tvm.s_tir import Schedule

import microddsp
from microddsp import dsp
from microddsp.building import build
from microddsp.micro.aot.helpers import own_names
from microddsp.micro.package.model import CompiledModel
from microddsp.packing import package_of
from microddsp.relax_ops.choices import Session
from microddsp.tuning.spaces import MutateChoice, decisions_of, default_schedule
from microddsp.tuning.task import Task, salt_of, tuning_tasks

RATE = 8000
BLOCK = 256


class Everything(torch.nn.Module):
    """Every kind of kernel that has choices."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        half = torch.rand(16)
        taps = torch.cat([half, torch.ones(1), half.flip(0)])
        self.band = dsp.Bandpass(low_hz=300.0, high_hz=900.0, order=4, sample_rate_hz=RATE)
        self.envelope = dsp.Envelope(attack_s=0.002, release_s=0.003, sample_rate_hz=RATE)
        self.count = dsp.EventCounter(threshold=0.3, hysteresis=0.5, sample_rate_hz=RATE)
        self.fir = dsp.FIR(taps / taps.sum())
        self.mel = dsp.MelSpectrogram(8, 128, sample_rate_hz=RATE)
        self.frames = dsp.Frames(BLOCK)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv1d(1, 8, 5, padding=2),
            torch.nn.ReLU(),
            torch.nn.Conv1d(8, 12, 3, padding=1),
            torch.nn.ReLU(),
        )
        self.linear = torch.nn.Linear(12, 6)
        self.causal = dsp.CausalConv1d(1, 4, 7)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        band = self.band(x)
        frames = self.frames(band)
        return {
            "count": self.count(self.envelope(band.abs())),
            "fir": self.fir(band),
            "mel": self.mel(band),
            "linear": self.linear(self.layers(frames).mean(-1)),
            "causal": self.causal(band),
        }


@pytest.fixture(scope="module")
def pipeline() -> torch.nn.Module:
    return Everything()


@pytest.fixture(scope="module")
def tasks(pipeline: torch.nn.Module) -> list[Task]:
    return tuning_tasks(pipeline, torch.zeros(1, BLOCK), name="all")


def compiled(pipeline: torch.nn.Module, session: Session | None) -> CompiledModel:
    example = torch.zeros(1, BLOCK)
    return package_of(build(pipeline, example, name="all", choices=session))


class Small(torch.nn.Module):
    """A cascade that a counter hears, twice as long as its registers."""

    def __init__(self, low_hz: float = 90.0) -> None:
        super().__init__()
        self.band = dsp.Bandpass(low_hz=low_hz, high_hz=700.0, order=4, sample_rate_hz=RATE)
        self.envelope = dsp.Envelope(attack_s=0.002, release_s=0.01, sample_rate_hz=RATE)
        self.count = dsp.EventCounter(threshold=0.2, hysteresis=0.5, sample_rate_hz=RATE)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        band = self.band(x)
        return {"band": band, "count": self.count(self.envelope(band.abs()))}


def bursts(blocks: int, channels: int = 1) -> Tensor:
    """Noise that comes and goes."""
    time = torch.arange(blocks * BLOCK)
    generator = torch.Generator().manual_seed(3)
    return torch.randn(channels, len(time), generator=generator) * torch.sin(time / 90.0) ** 4


def decided(choices: Mapping[str, object]) -> Session:
    """Every kernel as these choices say, where it has them."""
    return Session(salt_of("cortex-m4f"), lambda _key: choices)


def turn(tasks: list[Task], number: int) -> Session:
    """Another value of every choice of every kernel."""
    picked = {
        t.key: {c.name: c.values[(number + i) % len(c.values)] for i, c in enumerate(t.choices)}
        for t in tasks
    }
    return Session(salt_of("cortex-m4f"), picked.get, lambda key, function: None)


def test_defaults_are_what_compile_makes(pipeline: torch.nn.Module, tasks: list[Task]) -> None:
    source = compiled(pipeline, None).sources["all.c"]
    assert compiled(pipeline, Session("cortex-m4f")).sources["all.c"] == source
    for task in tasks:
        assert own_names(task.default.kernels[-1].text, "all") in source
        again = task.candidate(task.default_schedule())
        assert again.kernels[-1].text == task.default.kernels[-1].text


def test_every_kind_of_kernel_has_its_choices(tasks: list[Task]) -> None:
    found = {task.name: {choice.name for choice in task.choices} for task in tasks}
    assert found["sample_loop0"] >= {"form", "unroll", "loops", "counter", "fma"}
    assert found["fir"] >= {"width", "fold"}
    assert "radices" in found["spectrum"]
    assert found["bands"] >= {"layout", "lanes"}
    assert found["convolution"] >= {"tile", "second tile", "taps"}
    assert found["causal_conv1d"] >= {"tile", "outer", "taps"}


@pytest.mark.parametrize(
    "number", [1, *(pytest.param(i, marks=pytest.mark.slow) for i in range(2, 20))]
)
def test_all_values_give_the_same_numbers(
    pipeline: torch.nn.Module, tasks: list[Task], number: int
) -> None:
    x = bursts(3)
    expected = compiled(pipeline, None).run(x)
    found = compiled(pipeline, turn(tasks, number)).run(x)
    assert int(expected["count"].max()) >= 2
    for name, y in expected.items():
        np.testing.assert_allclose(found[name], y, rtol=0, atol=1e-5 * float(y.abs().max()))


@pytest.mark.parametrize(("loops", "counter"), [(3, "dense"), (1, "scan"), (2, "scan")])
def test_loops_one_after_another_are_one_loop_bit_for_bit(loops: int, counter: str) -> None:
    module, example, x = Small(), torch.zeros(2, 100), bursts(2, 2)[:, :500]
    one = package_of(build(module, example)).run(x)
    session = decided({"loops": loops, "counter": counter, "unroll": 3})
    several = package_of(build(module, example, choices=session)).run(x)
    for name, y in one.items():
        assert torch.equal(several[name], y)
    assert int(one["count"].max()) >= 2


def test_forms_of_a_filter_agree_and_need_no_comparison_of_states() -> None:
    (task,) = tuning_tasks(Small(), torch.zeros(1, BLOCK))
    forms = {form: task.candidate(noted(task, form=form)) for form in ("transposed", "svf")}
    assert forms["transposed"].checked is None
    kernel = forms["svf"].kernels[-1]
    states = {out for out, into in kernel.inplace}
    assert len(set(forms["svf"].checked) & states) == len(states) - 1
    session = decided({"form": "svf"})
    x, example = bursts(2), torch.zeros(1, BLOCK)
    found = package_of(build(Small(), example, choices=session)).run(x)
    usual = package_of(build(Small(), example)).run(x)
    error = float((found["band"] - usual["band"]).abs().max() / usual["band"].abs().max())
    assert 0 < error <= 1e-5


def test_a_form_that_is_too_imprecise_is_not_offered() -> None:
    def forms(filtered: torch.nn.Module) -> list[object]:
        (task,) = tuning_tasks(filtered, torch.zeros(1, BLOCK))
        return [v for choice in task.choices if choice.name == "form" for v in choice.values]

    # direct forms of the lower one are off by 0.4 %
    assert forms(dsp.Lowpass(5.0, order=2, sample_rate_hz=RATE)) == []
    both = forms(dsp.Lowpass(1500.0, order=2, sample_rate_hz=RATE))
    assert both == ["transposed", "direct", "svf"]


def noted(task: Task, **choices: object) -> Schedule:
    """The default's schedule with other notes."""
    others = [replace(c, default=choices.get(c.name, c.default)) for c in task.choices]
    return default_schedule(task.workload, others)


def test_mutations_change_one_decision(tasks: list[Task]) -> None:
    task = next(t for t in tasks if t.name == "convolution")
    before = task.default_schedule()
    after = Schedule(task.workload)
    MutateChoice().apply(before.trace).apply_to_schedule(after, remove_postproc=False)
    changed = dict(decisions_of(before).items() ^ decisions_of(after).items())
    assert len(changed) == 1


@pytest.mark.qemu
def test_a_kernel_of_object_code_gives_the_same_numbers_on_a_device() -> None:
    module, x = Small(), bursts(2)
    expected = compiled(module, None).run(x)
    codes = decided({"code": "gcc -O3 -funroll-loops", "loops": 2, "counter": "scan"})
    built = build(module, torch.zeros(1, BLOCK), name="all", emit="any", choices=codes)
    model = package_of(built)
    assert set(model.objects) == {"all_kernels.o"}
    with microddsp.open_board("mps2-an386", model) as board:
        found = board.run(x)
    for name, y in expected.items():
        assert torch.equal(found[name], y)


# ---- keys

_KEYS = """
import sys
sys.path.insert(0, {folder!r})
import torch
from test_choices import BLOCK, Small
from microddsp.tuning.task import tuning_tasks
pipeline = torch.nn.Sequential(Small())
print(*(t.key for t in tuning_tasks(pipeline, torch.zeros(1, BLOCK), name="another")))
"""


@pytest.mark.slow
def test_a_key_is_the_same_in_every_process() -> None:
    here = [t.key for t in tuning_tasks(Small(), torch.zeros(1, BLOCK), name="one")]
    code = _KEYS.format(folder=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == here


def test_a_key_depends_on_what_is_computed_and_for_which_processor() -> None:
    def key(low_hz: float = 90.0, target: str = "cortex-m4f", block: int = BLOCK) -> str:
        filtered = dsp.Lowpass(low_hz, order=2, sample_rate_hz=RATE)
        return tuning_tasks(filtered, torch.zeros(1, block), target=target)[0].key

    assert len({key(), key(91.0), key(target="cortex-m7"), key(block=128)}) == 4
