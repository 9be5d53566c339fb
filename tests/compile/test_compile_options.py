"""Options of a compilation: passes, memory, what is written beside the archive."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from elftools.elf.elffile import ELFFile

import microddsp
from microddsp import dsp
from microddsp.errors import ParameterError
from microddsp.micro.aot.memory_options import MemoryOptions
from microddsp.micro.package.model import CompiledModel
from microddsp.schedules.pass_options import OPTIONAL, PassOptions, known_passes, pass_context

BLOCK = 32


def pipeline() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        dsp.Bandpass(400.0, 900.0, 2, sample_rate_hz=8000),
        dsp.FIR(torch.randn(17)),
        dsp.Gain(2.0),
        dsp.Envelope(0.002, 0.05, sample_rate_hz=8000),
    )


def compiled(**options: object) -> CompiledModel:
    return microddsp.compile(
        pipeline(),
        torch.zeros(1, BLOCK),
        name="opt",
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def plain() -> CompiledModel:
    return compiled()


def answer(model: CompiledModel) -> np.ndarray:
    model.reset()
    return model.run(np.random.default_rng(0).standard_normal((1, 4 * BLOCK)).astype("float32"))


def test_passes_print_what_they_see_and_how_long_they_take(plain: CompiledModel) -> None:
    said: list[str] = []
    options = PassOptions(["FuseSampleLoops"], ["FuseSampleLoops"], times=True, show=said.append)
    assert compiled(passes=options).sources == plain.sources
    before, after, times = said
    assert before.startswith("# before FuseSampleLoops") and "dsp.sos" in before
    assert after.startswith("# after FuseSampleLoops") and "dsp.sos" not in after
    assert "FuseSampleLoops: " in times


@pytest.mark.parametrize(
    "names", [OPTIONAL, OPTIONAL[:1], ("FuseOps",)], ids=["all", "first", "FuseOps"]
)
def test_passes_that_can_be_left_out_leave_the_results(
    plain: CompiledModel, names: tuple[str, ...]
) -> None:
    other = compiled(passes=PassOptions(disabled=names))
    expected = answer(plain)
    assert np.abs(answer(other) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (PassOptions(disabled=["FuseOp"]), "no pass 'FuseOp'"),
        (PassOptions(print_after=["X"]), "no pass 'X'"),
        (PassOptions(disabled=["LegalizeOps"]), "cannot be left out"),
        (PassOptions(config={"tirx.enable_fast_math": "true"}), "change the numbers"),
        (PassOptions(config={"tirx.noalia": "true"}), "no pass has an option"),
        (PassOptions(config={"relax.FuseOps.max_depth": "many"}), "is a int"),
        (PassOptions(config={"tirx.UnrollLoop": "1"}), "only numbers"),
    ],
)
def test_what_the_passes_do_not_know_is_refused(options: PassOptions, words: str) -> None:
    assert set(OPTIONAL) <= set(known_passes())
    with pytest.raises(ParameterError, match=words), pass_context(options):
        pytest.fail("the context was entered")


def test_an_option_of_the_passes_reaches_them(plain: CompiledModel) -> None:
    apart = compiled(passes=PassOptions(config={"relax.FuseOps.max_depth": "1"}))
    expected = answer(plain)
    assert np.abs(answer(apart) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_sections_and_alignments_are_in_the_object(plain: CompiledModel, tmp_path: Path) -> None:
    sections = {"state": ".dtcm", "constants": ".flash_ext", "arena": ".bss.fast"}
    model = compiled(memory=MemoryOptions(32, 16, sections))
    assert model.signature.workspace_align == 32
    assert model.signature.workspace_bytes % 32 == 0
    for name, text in model.sources.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "main.c").write_text(
        '#include "opt.h"\n#include "opt.c"\nOPT_STATE_MEMORY opt_t opt;\n'
        "OPT_WORKSPACE_MEMORY unsigned char workspace[OPT_WORKSPACE_BYTES];\n"
    )
    found = {}
    for define in ("X", "OPT_CONSTANTS="):
        command = [model.target.compiler, *model.target.c_flags, f"-D{define}", "-c", "main.c"]
        subprocess.run(command, cwd=tmp_path, check=True)
        with (tmp_path / "main.o").open("rb") as file:
            found[define] = {s.name: s["sh_addralign"] for s in ELFFile(file).iter_sections()}
    assert {".dtcm", ".flash_ext", ".bss.fast"} <= found["X"].keys()
    assert found["X"][".flash_ext"] == 16
    assert ".flash_ext" not in found["OPT_CONSTANTS="]
    assert np.array_equal(answer(model), answer(plain))
    model.save(tmp_path / "opt.tar")
    assert microddsp.load(tmp_path / "opt.tar") == model


@pytest.mark.parametrize(
    "wrong",
    [
        {"workspace_align": 4},
        {"constant_align": 24},
        {"sections": {"heap": ".x"}},
        {"sections": {"state": 'a"b'}},
    ],
)
def test_memory_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        MemoryOptions(**wrong)  # type: ignore[arg-type]


def test_code_is_dumped_as_it_was(plain: CompiledModel, tmp_path: Path) -> None:
    written = plain.dump(tmp_path / "code", ["relax", "tir", "c"])
    texts = {path.name: path.read_text() for path in written}
    assert texts.keys() == {"opt.c", "opt.h", "opt.relax.txt", "opt.tir.txt"}
    assert "dsp.sos" in texts["opt.relax.txt"] and texts["opt.c"] == plain.sources["opt.c"]
    plain.save(tmp_path / "opt.tar")
    loaded = microddsp.load(tmp_path / "opt.tar")
    assert [p.read_text() for p in loaded.dump(tmp_path / "again")] == [
        p.read_text() for p in written
    ]
    with pytest.raises(ParameterError, match="no relax"):
        replace(loaded, relax="").dump(tmp_path / "code")
    with pytest.raises(ParameterError, match="asm"):
        plain.dump(tmp_path, ["asm"])
