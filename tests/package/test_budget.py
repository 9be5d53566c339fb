"""Limits of room and time: what passes them is told with a table of what takes the room."""

from __future__ import annotations

import pytest
import torch

import microddsp
from microddsp import dsp
from microddsp.budget import LoadLimit, check_budget, read_limits
from microddsp.errors import BudgetError, CompileError, ParameterError
from microddsp.micro.package.model import CompiledModel


def smoother(target: str = "cortex-m4f", **options: object) -> CompiledModel:
    torch.manual_seed(0)
    pipeline = torch.nn.Sequential(
        dsp.Lowpass(300.0, 2, sample_rate_hz=8000), dsp.FIR(torch.randn(33))
    )
    return microddsp.compile(
        pipeline,
        torch.zeros(1, 64),
        target=target,
        name="smooth",
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return smoother()


def test_limits_are_bytes_or_a_part_of_a_processor() -> None:
    assert read_limits({"ram": 300, "flash": "64K", "load": "2.5%@64MHz"}) == {
        "ram": 300,
        "flash": 65536,
        "load": LoadLimit(0.025, 64e6),
    }
    for key, value in (
        ("rom", 1),
        ("ram", 0),
        ("ram", "lots"),
        ("load", "50%"),
        ("load", "0%@1Hz"),
    ):
        with pytest.raises(ParameterError):
            read_limits({key: value})
    with pytest.raises(ParameterError, match="names what it limits"):
        read_limits("2K")  # type: ignore[arg-type]


def test_the_table_names_sections_tables_and_every_buffer(model: CompiledModel) -> None:
    with pytest.raises(BudgetError) as caught:
        check_budget(model, read_limits({"flash": 100, "ram": 1}))
    text = str(caught.value)
    memory = model.memory
    assert "over budget: flash, ram\n" in text and f"{memory.flash_bytes:>8} of 100" in text
    for name in (*memory.sections, *memory.symbols, *(row[0] for row in memory.buffers)):
        assert f" {name} " in text
    assert memory.symbols["smooth_c0"] == 33 * 4


def test_the_table_is_about_the_limit_that_is_passed(model: CompiledModel) -> None:
    with pytest.raises(BudgetError) as flash:
        check_budget(model, read_limits({"flash": 100}))
    assert "section" in str(flash.value) and "arena" not in str(flash.value)
    with pytest.raises(BudgetError) as ram:
        check_budget(model, read_limits({"ram": 1, "flash": "1M"}))
    assert "arena" in str(ram.value) and "section" not in str(ram.value)


@pytest.mark.qemu
def test_a_load_is_cycles_against_the_sample_rate(model: CompiledModel) -> None:
    load = model.load
    assert load.instructions < load.cycles_low <= load.cycles_high < 3 * load.instructions
    share = load.share(model.signature, 64e6)
    assert share == load.cycles_high * 8000 / 64 / 64e6
    check_budget(model, {"load": LoadLimit(share * 1.01, 64e6)})
    with pytest.raises(
        BudgetError, match=r"over budget: load\nload .*modelled cycles a block of 64"
    ):
        check_budget(model, {"load": LoadLimit(share * 0.99, 64e6)})


def test_what_is_not_modelled_is_refused(model: CompiledModel) -> None:
    with pytest.raises(CompileError, match="modelled for cortex-m4f only"):
        smoother("cortex-m0", budget={"load": "50%@64MHz"})
    unknown = torch.nn.Sequential(dsp.FIR(torch.ones(3)))
    rateless = microddsp.compile(unknown, torch.zeros(1, 64), name="rateless")
    with pytest.raises(CompileError, match="sample rate"):
        model.load.share(rateless.signature, 64e6)


@pytest.mark.parametrize("key", ["state", "arena", "constants"])
def test_each_kind_of_memory_has_a_limit_of_its_own(model: CompiledModel, key: str) -> None:
    used = {
        "state": model.signature.state_bytes,
        "arena": model.signature.workspace_bytes,
        "constants": model.constant_bytes,
    }[key]
    check_budget(model, {key: max(used, 1)})
    if used > 1:
        with pytest.raises(BudgetError, match=rf"over budget: {key}\n{key} +{used} of {used - 1}"):
            check_budget(model, {key: used - 1})
